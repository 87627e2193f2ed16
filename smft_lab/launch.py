"""`smft-lab lab`: the notebooks in JupyterLab, or as pages without code, served by the Python that runs this."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import tempfile
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

from smft_lab.pages import index, make_root
from smft_lab.writing import atomic_file

PACKAGE = Path(__file__).parent
FORGOTTEN = 3600  # seconds without a word from a page, as of a browser that was killed, after which its kernel ends
COPIES = Path("smft-lab-notebooks")
# What each way to serve imports, and what installs it (the extras `lab` and `app` of pyproject.toml).
NEEDED = {
    "JupyterLab": {"jupyterlab": "jupyterlab>=4.4", "ipykernel": "ipykernel>=7.1"},
    "Voila": {"voila": "voila>=0.5.8", "ipykernel": "ipykernel>=7.1"},
}
# JupyterLab asks each new user whether to fetch news; as a default here, the question does not come up.
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
# Voila's pages ask a public server for icons that no notebook shows; this header tells the browser not to.
OFFLINE = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws: wss:"}


def missing(server: str) -> str | None:
    """What to say if `server` (a key of NEEDED) can't be started; None if it can."""
    needed = NEEDED[server]
    if all(find_spec(module) for module in needed):
        return None
    command = shlex.join([sys.executable, "-m", "pip", "install", *needed.values()])
    return f"{server} isn't installed here; install it with\n{command}"


def shipped_notebooks() -> tuple[list[Path], bool]:
    """The lab's notebooks, in their order, and whether they are those of a source tree.

    Raises:
        FileNotFoundError: This installation has none.
    """
    for folder, in_source_tree in ((PACKAGE / "notebooks", False), (PACKAGE.parent / "notebooks", True)):
        if notebooks := sorted(folder.glob("*.ipynb")):
            return notebooks, in_source_tree
    raise FileNotFoundError("the notebooks are missing from this installation; install smft-lab again")


def copy_notebooks(notebooks: list[Path], folder: Path) -> tuple[list[str], list[str]]:
    """Copy notebooks into a folder, and whatever is there stays as it is.

    Returns:
        The names copied, and the names kept whose content is not the notebook's.

    Raises:
        OSError: they can't be written.
        ValueError: `folder` is a file, or lies in one.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    copied, untouched = [], []
    for notebook in notebooks:
        content, target = notebook.read_bytes(), folder / notebook.name
        if not os.path.lexists(target):
            with atomic_file(target, replace=False) as partial:
                partial.write_bytes(content)
            copied.append(notebook.name)
        elif not target.is_file() or target.read_bytes() != content:
            untouched.append(notebook.name)
    return copied, untouched


def prepare(folder: Path | None) -> tuple[Path, list[str]]:
    """The first notebook to open, and lines that say what was done.

    A source tree's notebooks are served where they are. An installed package's, which an update would overwrite, and
    those asked for in a `folder`, are copied first.

    Raises:
        FileNotFoundError: This installation has no notebooks.
        ValueError: `folder` is a file, or lies in one.
    """
    notebooks, in_source_tree = shipped_notebooks()
    if in_source_tree and folder is None:
        return notebooks[0], [f"notebooks of {notebooks[0].parent}"]
    folder = folder or COPIES
    copied, untouched = copy_notebooks(notebooks, folder)
    notes = [f"notebooks of {folder} ({len(copied)} copied there, {len(notebooks) - len(copied)} were there)"]
    if untouched:
        notes.append(f"left as they are, though this version has others: {', '.join(untouched)}")
    return folder.resolve() / notebooks[0].name, notes


def jupyterlab_options(first: Path, workspaces: Path, browser: bool, port: int | None) -> list[str]:
    """The command line for JupyterLab, open on the notebook `first`."""
    options = [
        f"--ServerApp.root_dir={first.parent}",
        f"--LabApp.default_url=/lab/tree/{quote(first.name)}",
        # Tabs of a person's other folders can't be opened in this one.
        f"--LabApp.workspaces_dir={workspaces}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--ServerApp.allow_root=True",  # containers
        "--ServerApp.log_level=WARN",  # still shows the address
    ]
    return [*options, *_common("ServerApp", browser, port)]


def voila_options(root: Path, browser: bool, port: int | None) -> list[str]:
    """The command line for Voila: the notebooks of `root`, each a page whose cells are shown as they are done; the
    address holds a token."""
    options = [
        "--Voila.auto_token=True",
        "--VoilaConfiguration.show_tracebacks=True",
        "--VoilaConfiguration.progressive_rendering=True",
        f"--MappingKernelManager.cull_idle_timeout={FORGOTTEN}",
    ]
    return [str(root), *options, *_common("Voila", browser, port)]


def _common(server: str, browser: bool, port: int | None) -> list[str]:
    return [f"--{server}.open_browser={browser}"] + ([] if port is None else [f"--{server}.port={port}"])


def serve(first: Path, pages: bool = False, browser: bool = True, port: int | None = None) -> None:
    """Serve the notebooks beside `first` until Ctrl-C; a taken port moves on to a free one.

    Args:
        pages: As pages without code (Voila) instead of in JupyterLab.
    """
    with tempfile.TemporaryDirectory(prefix="smft-lab-") as own:
        config = Path(own, "config", "labconfig")
        config.mkdir(parents=True)
        (config / "default_setting_overrides.json").write_text(json.dumps(QUIET))
        theirs = os.environ.get("JUPYTER_CONFIG_PATH")
        os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([str(config.parent), *([theirs] if theirs else [])])
        # The kernel and the widgets' JavaScript of this environment, not others of the person's home folder.
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
        if pages:
            settings = {"headers": OFFLINE, "allow_remote_access": False}  # other names than localhost are refused
            root = Path(own, "pages")
            make_root(root, first.parent, Path.cwd())
            options = voila_options(root, browser, port)
            _voila(Path(own), first.parent).launch_instance(options, tornado_settings=settings)
        else:
            from jupyterlab.labapp import LabApp

            server = LabApp.initialize_server(argv=jupyterlab_options(first, Path(own, "workspaces"), browser, port))
            # Jupyter's own Ctrl-C asks a question in a terminal, and elsewhere leaves kernels behind.
            signal.signal(signal.SIGINT, lambda *_: server.stop(from_signal=True))
            server.start()


def _voila(own: Path, lessons: Path):
    """Voila with the address, token and all, in the browser that it opens, and a front page of ours.

    Args:
        own: A folder that nobody else reads: a token in a browser's command line would be seen by every user.
        lessons: The folder of the notebooks.
    """
    from jupyter_server.base.handlers import JupyterHandler
    from tornado.ioloop import IOLoop
    from tornado.web import authenticated
    from voila.app import Voila

    class Front(JupyterHandler):
        @authenticated
        def get(self) -> None:
            _ = self.xsrf_token  # sets the cookie by which a page that is closed may end its kernel
            self.finish(index(lessons, self.base_url))

    class Pages(Voila):
        def init_handlers(self) -> list:
            theirs: Any = super().init_handlers()
            return [(self.server_url, Front), *theirs]  # the first that fits is taken

        def listen(self) -> None:
            loop: Any = IOLoop.current()
            # As an exception, a Ctrl-C can be swallowed by whatever runs when it comes.
            signal.signal(signal.SIGINT, lambda *_: loop.asyncio_loop.call_soon_threadsafe(loop.stop))
            super().listen()

        def launch_browser(self) -> None:
            page = own / "open.html"
            page.write_text(f'<meta http-equiv="refresh" content="0; url={self.display_url}">', encoding="utf-8")
            Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()

    return Pages
