"""What every live panel has: a runner, errors that are seen, and one lab that only one panel trains at a time."""

from __future__ import annotations

import base64
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import pandas as pd
import traitlets

from smft_lab.facts.fact import Fact
from smft_lab.facts.world.world import World
from smft_lab.lab import Lab
from smft_lab.model.allocator import return_freed_memory
from smft_lab.slots.patch import Patch, is_patch
from smft_lab.widgets import sharing
from smft_lab.widgets.runners import RUNNERS, InlineRunner, Runner, runner_name
from smft_lab.wording import counted

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

HERE = Path(__file__).parent
# Text: of a file anywidget would keep every panel that was ever shown, so as to tell it of a change.
STYLE = (HERE / "panel.css").read_text(encoding="utf-8")


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


def save_patch(patch: Patch, path: str | Path | None) -> str:
    """Save a patch, and say so; without a path under the first free name of patch, patch-2, ... .safetensors."""
    path = sharing.free_name("patch.safetensors") if path is None else path
    patch.save(path)
    return f"Saved {counted(len(patch), 'row')} to {path} ({Path(path).stat().st_size / 1000:,.0f} kB)."


def check_name(name) -> None:
    """Raise ValueError unless this names a patch in the kernel's own folder: a page chooses no other."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .-]*\.safetensors", name):
        raise ValueError(f"the page asked to save to {str(name)[:80]!r}; it may give a name such as mine.safetensors")
    if os.path.lexists(name) and (os.path.islink(name) or not os.path.isfile(name)):
        raise ValueError(f"{name} is no plain file; give another name")
    if os.path.exists(name) and not is_patch(Path(name)):
        raise ValueError(f"{name} is there and no patch, and would be lost; give another name")


@contextmanager
def uploaded(name: str, data: str) -> Iterator[Path]:
    """A file that came with the page, in base64, until the block ends; only the last part of its name is used."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(str(name)).name or "file")
        file.write_bytes(base64.b64decode(data))
        yield file


class Panel(anywidget.AnyWidget):
    """Base of the panels: commands from the browser come in as `{"do": name, ...}` and end in a method of that name.

    Attributes:
        error: What went wrong and what to do; shown in red until the next command.
        state: How far a training is: idle, running, paused, or done.
        note: What was done last.
        handled: How many commands have been done, so that the page can tell that one is still being worked at.
    """

    _css = STYLE
    commands: tuple[str, ...] = ()
    title = ""  # of what is exported
    takes_patches = False
    lab: Any  # what it is about: a lab, but for `Train`
    settings: Any
    # Runs nothing, before `__init__` has come so far: a panel that was refused its arguments is closed too.
    _runner: Runner = Runner(threading.RLock())
    error = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode("idle").tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    handled = traitlets.Int(0).tag(sync=True)
    ticks = traitlets.Bool(False).tag(sync=True)
    theme = traitlets.Unicode("auto").tag(sync=True)
    shares = traitlets.List().tag(sync=True)  # the commands below that this panel has
    code = traitlets.Unicode("").tag(sync=True)
    card = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)  # of a patch that was opened

    def __init__(self, lab: Lab | World, runner: str | None = None, theme: str = "auto", **traits):
        if theme not in ("auto", "light", "dark"):
            raise ValueError(f"theme is auto, light or dark, not {theme!r}")
        self.lab = lab
        self._claim = _claims.setdefault(lab, _Claim(lab))
        self._runner = RUNNERS[runner or runner_name()](self._claim.lock)
        shares = ["show_code", "export", *(["take_patch"] if self.takes_patches else [])]
        super().__init__(ticks=self._runner.ticks, theme=theme, shares=shares, **traits)
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
            if name not in (*self.commands, *self.shares):
                raise ValueError(f"the page asked for {name!r}, which this version doesn't know; reload the page")
            options = {key: value for key, value in content.items() if key != "do"}
            if name == "save" and "path" in options:
                check_name(options["path"])
            if name == "export" and options:
                raise ValueError("the page asked to export to a place of its own; it may not choose one")
            getattr(self, str(name))(**options)
        except Exception as problem:
            self.fail(problem)
        if name != "tick":
            self.handled += 1

    def fail(self, problem: BaseException) -> None:
        """Show what went wrong."""
        if isinstance(problem, KeyboardInterrupt):
            self.error = "interrupted; Reset brings the base back"
            return
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

    def claim(self, take: bool = True) -> None:
        """Make this the panel that may change the lab's model.

        Args:
            take: Whether a panel that was stopped in the middle of a training, and may be off the screen by now, gives
                it up for that.

        Raises:
            ValueError: another panel is training on it.
        """
        owner = self._claim.owner and self._claim.owner()
        if take and owner is not None and owner is not self and owner.state == "paused":
            owner.give_way()
            owner = self._claim.owner and self._claim.owner()
        if owner is not None and owner is not self:
            raise ValueError(
                "another panel is in the middle of a finetune on this lab; press Reset there, or wait for it"
            )
        self._claim.owner = weakref.ref(self)

    def give_way(self) -> None:
        """Give up what was stopped here, since another panel takes the lab over."""
        self.release()

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

    # What goes to somebody else, and comes from them

    def as_code(self) -> str:
        """Python that does what the panel shows, with the settings that stand in it, and runs as it is pasted."""
        raise NotImplementedError

    def show_code(self) -> None:
        """Let the page have the code."""
        self.code = self.as_code()

    def export(self, path: str | Path | None = None) -> Path:
        """Write a folder for somebody else: a page, the code, the facts, the figures, and the patch where there is one.

        Args:
            path: A new folder; by default the first free name of export, export-2, ...

        Returns:
            The folder.

        Raises:
            OSError: it can't be written.
            ValueError: there is something of that name.
        """
        path = sharing.free_name(sharing.EXPORT) if path is None else Path(path)
        names = self._export(path)
        self.note = f"Exported to {path}: {', '.join(names)}."
        return path

    def _export(self, path: Path) -> list[str]:
        facts, patch, table = self._shared()
        return sharing.export(path, self.title, self.snapshot(), self.as_code(), facts, patch, table)

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """The facts, the patch and the figures of what is shown."""
        raise NotImplementedError

    def take_patch(self, name: str, data: str) -> None:
        """Open a patch that came with the page, in base64; see `open_patch`."""
        with uploaded("patch.safetensors", data) as file:
            try:
                patch = Patch.load(file)
            except ValueError as problem:
                raise ValueError(str(problem).replace(str(file), str(name))) from None
        patch.name = str(name)
        self.open_patch(patch)

    def open_patch(self, patch: Patch | str | Path) -> None:
        """Put a patch into the model, in place of what was taught there, and show its card.

        The card says what was taught, what it costs on the probes, and what else reads its rows. `lab.reset()` takes
        the patch out.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no patch, it is of another base, or another panel is training.
        """
        if not self.takes_patches:
            raise ValueError("this panel takes no patches; open it in TopT, Teach, Slots or Addresses")
        patch = patch if isinstance(patch, Patch) else Patch.load(patch)
        patch.check(self.lab)  # before anything is lost
        self._halt()
        self.claim()
        try:
            with self._claim.lock:
                self.card = sharing.card(self.lab, patch, Path(patch.name).name, self._shared()[0])
        finally:
            self.release()
        self._taken(patch)
        self.announce()

    def _taken(self, patch: Patch) -> None:
        """The model is the base with this patch now."""

    def _halt(self) -> None:
        """Stop what is under way."""
        self._runner.stop()

    def snapshot(self) -> Picture:
        """What the panel shows, as a still picture: it is seen where no kernel runs, too."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        """The live panel; where nobody watches (`InlineRunner`), its picture instead, for those who read later."""
        if isinstance(self._runner, InlineRunner):
            return self.snapshot()._repr_mimebundle_()
        return super()._repr_mimebundle_(**kwargs)

    def run_ended(self, run: Generator) -> None:
        """The lab has ended a finetune; for panels that train."""

    def base_is_back(self) -> None:
        """The lab was reset, perhaps by a cell: a panel that shows the model as it is shows the base."""

    def close(self) -> None:
        """Stop training, give the lab up, and take the panel off the screen."""
        lab = getattr(self, "lab", None)  # none where it was refused its arguments
        if isinstance(lab, Lab):
            lab.watchers.discard(self)
        self._runner.stop()
        if hasattr(self, "_claim"):
            self._claim.panels.discard(self)
            return_freed_memory()
        super().close()
