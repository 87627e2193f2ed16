"""What every live panel has: a runner, errors that are seen, and one lab that only one panel trains at a time."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import anywidget
import traitlets

from smft_lab.widgets.runners import RUNNERS, runner_name

HERE = Path(__file__).parent


class _Claim:
    """Which panel is training on a lab, and the lock that keeps its steps apart from questions and resets."""

    def __init__(self):
        self.lock = threading.RLock()
        self.owner: weakref.ref | None = None


_claims: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Panel(anywidget.AnyWidget):
    """Base of the panels: commands from the browser come in as `{"do": name, ...}` and end in a method of that name.

    Attributes:
        error: What went wrong and what to do; shown in red until the next command.
    """

    _css = HERE / "panel.css"
    commands: tuple[str, ...] = ()
    error = traitlets.Unicode("").tag(sync=True)
    ticks = traitlets.Bool(False).tag(sync=True)
    theme = traitlets.Unicode("auto").tag(sync=True)

    def __init__(self, lab, runner: str | None = None, theme: str = "auto", **traits):
        if theme not in ("auto", "light", "dark"):
            raise ValueError(f"theme is auto, light or dark, not {theme!r}")
        self.lab = lab
        self._claim = _claims.setdefault(lab, _Claim())
        self._runner = RUNNERS[runner or runner_name()](self._claim.lock)
        super().__init__(ticks=self._runner.ticks, theme=theme, **traits)
        self.on_msg(self._command)

    def _command(self, _, content: dict, __) -> None:
        """Run one command from the browser; whatever it raises is shown, never swallowed."""
        name = content.get("do")
        try:
            if name == "tick":
                self._runner.tick()
                return
            self.error = ""
            if name not in self.commands:
                raise ValueError(f"the page asked for {name!r}, which this version doesn't know; reload the page")
            getattr(self, name)(**{key: value for key, value in content.items() if key != "do"})
        except Exception as problem:
            self.fail(problem)

    def fail(self, problem: Exception) -> None:
        """Show what went wrong."""
        text = " ".join(str(problem).split()) or type(problem).__name__
        self.error = text if isinstance(problem, ValueError | OSError) else f"{type(problem).__name__}: {text}"

    def claim(self) -> None:
        """Make this the panel that may change the lab's model.

        Raises:
            ValueError: another panel is training on it.
        """
        owner = self._claim.owner and self._claim.owner()
        if owner is not None and owner is not self:
            raise ValueError(
                "another panel is in the middle of a finetune on this lab; press Reset there, or wait for it"
            )
        self._claim.owner = weakref.ref(self)

    def release(self) -> None:
        """Let other panels change the lab's model."""
        self._claim.owner = None

    def close(self) -> None:
        """Stop training, give the lab up, and take the panel off the screen."""
        self._runner.stop()
        super().close()
