"""What every live panel has: a runner, errors that are seen, and one lab that only one panel trains at a time."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from smft_lab.facts.world import World
from smft_lab.lab import Lab
from smft_lab.slots.patch import Patch
from smft_lab.widgets.runners import RUNNERS, InlineRunner, Runner, runner_name

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

HERE = Path(__file__).parent


class _Claim:
    """What the panels of one lab share.

    Attributes:
        lock: The lab's own; another where the panels are of something else, such as a world.
        owner: The panel that is training, if one is.
        panels: All that are open, so that they hear when the model changes.
    """

    def __init__(self, lab: Lab | World):
        self.lock = getattr(lab, "lock", None) or threading.RLock()
        self.owner: weakref.ref | None = None
        self.panels: weakref.WeakSet[Panel] = weakref.WeakSet()


_claims: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def page(name: str) -> str:
    """The module that draws a panel: what all pages share, then its own."""
    return "\n".join((HERE / file).read_text(encoding="utf-8") for file in ("panel.js", name))


def saved(patch: Patch, path: str | Path) -> str:
    """Save a patch, and say so."""
    patch.save(path)
    return f"Saved {len(patch):,} rows to {path} ({Path(path).stat().st_size / 1000:,.0f} kB)."


def check_name(name) -> None:
    """Raise ValueError unless this names a patch in the kernel's own folder: a page chooses no other."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .-]*\.safetensors", name):
        raise ValueError(f"the page asked to save to {str(name)[:80]!r}; it may give a name such as mine.safetensors")
    if os.path.lexists(name) and (os.path.islink(name) or not os.path.isfile(name)):
        raise ValueError(f"{name} is no plain file; give another name")


class Panel(anywidget.AnyWidget):
    """Base of the panels: commands from the browser come in as `{"do": name, ...}` and end in a method of that name.

    Attributes:
        error: What went wrong and what to do; shown in red until the next command.
        handled: How many commands have been done, so that the page can tell that one is still being worked at.
    """

    _css = HERE / "panel.css"
    commands: tuple[str, ...] = ()
    lab: Any  # what it is about: a lab, but for `Train`
    settings: Any
    # Runs nothing, before `__init__` has come so far: a panel that was refused its arguments is closed too.
    _runner: Runner = Runner(threading.RLock())
    _items: Generator | None = None  # the training under way, begun and not ended
    error = traitlets.Unicode("").tag(sync=True)
    handled = traitlets.Int(0).tag(sync=True)
    ticks = traitlets.Bool(False).tag(sync=True)
    theme = traitlets.Unicode("auto").tag(sync=True)

    def __init__(self, lab: Lab | World, runner: str | None = None, theme: str = "auto", **traits):
        if theme not in ("auto", "light", "dark"):
            raise ValueError(f"theme is auto, light or dark, not {theme!r}")
        self.lab = lab
        self._claim = _claims.setdefault(lab, _Claim(lab))
        self._runner = RUNNERS[runner or runner_name()](self._claim.lock)
        super().__init__(ticks=self._runner.ticks, theme=theme, **traits)
        self.on_msg(self._command)
        self._claim.panels.add(self)

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
            options = {key: value for key, value in content.items() if key != "do"}
            if name == "save":
                check_name(options.get("path", "patch.safetensors"))
            getattr(self, name)(**options)
        except Exception as problem:
            self.fail(problem)
        if name != "tick":
            self.handled += 1

    def fail(self, problem: Exception) -> None:
        """Show what went wrong."""
        text = " ".join(str(problem).split()) or type(problem).__name__
        self.error = text if isinstance(problem, ValueError | OSError) else f"{type(problem).__name__}: {text}"

    def with_settings(self, settings: dict) -> dict:
        """The panel's settings with some of them changed, to be checked before they are taken over.

        Raises:
            ValueError: there is no setting of that name.
        """
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise ValueError(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(self.settings)}")
        return {**self.settings, **settings}

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

    def announce(self) -> None:
        """Tell the lab's other panels that its model has changed."""
        for panel in list(self._claim.panels):
            if panel is not self:
                panel.model_changed()

    def model_changed(self) -> None:
        """Another panel has changed the lab's model; panels that show the model look at it again."""

    def snapshot(self) -> Picture:
        """What the panel shows, as a still picture: it is seen where no kernel runs, too."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        """The live panel; where nobody watches (`InlineRunner`), its picture instead, for those who read later."""
        if isinstance(self._runner, InlineRunner):
            return self.snapshot()._repr_mimebundle_()
        return super()._repr_mimebundle_(**kwargs)

    def close(self) -> None:
        """Stop training, give the lab up, and take the panel off the screen."""
        self._runner.stop()
        if hasattr(self, "_claim"):
            self._claim.panels.discard(self)
        super().close()
