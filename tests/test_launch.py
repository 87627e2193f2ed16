"""`smft-lab lab`: which notebooks are opened, and how the server is started and stopped."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smft_lab import launch
from smft_lab.cli.app import app

ROOT = Path(__file__).parent.parent
FIRST = "01_memory_layers.ipynb"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as a wheel leaves it: notebooks inside, no source tree around it."""
    package = tmp_path / "site-packages" / "smft_lab"
    (package / "notebooks").mkdir(parents=True)
    for name in (FIRST, "02_which_slots.ipynb"):
        (package / "notebooks" / name).write_text(f"the {name} of the package")
    monkeypatch.setattr(launch, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    return package


def test_a_source_tree_is_worked_in_where_it_is():
    first, _ = launch.prepare(None)
    assert first == ROOT / "notebooks" / FIRST


def test_an_installed_package_copies_its_notebooks_and_never_over_a_persons_own(installed):
    first, _ = launch.prepare(None)
    assert {file.name for file in first.parent.iterdir()} == {FIRST, "02_which_slots.ipynb"}
    first.write_text("my own work")
    (first.parent / "02_which_slots.ipynb").unlink()
    again, said = launch.prepare(None)
    assert again.read_text() == "my own work"
    assert (first.parent / "02_which_slots.ipynb").is_file()
    assert any("left as they are" in line and FIRST in line for line in said)


def test_notebooks_can_be_copied_out_of_a_source_tree(tmp_path):
    first, _ = launch.prepare(tmp_path / "mine")
    assert first == tmp_path / "mine" / FIRST
    assert first.read_bytes() == (ROOT / "notebooks" / FIRST).read_bytes()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        launch.prepare(tmp_path / "taken")


def test_an_installation_without_notebooks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PACKAGE", tmp_path / "smft_lab")
    with pytest.raises(FileNotFoundError, match="install smft-lab again"):
        launch.prepare(None)


@pytest.mark.parametrize(("option", "named"), [([], "jupyterlab>=4.4"), (["--app"], "voila>=0.5.8")])
def test_a_missing_server_names_the_command_that_installs_it(monkeypatch, option, named):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    shown = CliRunner().invoke(app, ["lab", *option])
    assert shown.exit_code == 1
    assert "-m pip install" in shown.output.replace("\n", " ")
    assert named in shown.output


def test_what_is_offered_to_install_is_what_the_extras_hold():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for server, extra in (("JupyterLab", "lab"), ("Voila", "app")):
        assert set(launch.NEEDED[server].values()) <= set(extras[extra])


@pytest.fixture
def started(tmp_path):
    """Starts `smft-lab lab` with Jupyter folders of its own; returns the process and what it tells of itself."""
    running = []

    def start(*options):
        env = dict(os.environ) | {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("RUNTIME", "CONFIG")}
        command = [sys.executable, "-m", "smft_lab.cli", "lab", "--no-browser", *options]
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        running.append(process)
        until = time.monotonic() + 90
        while time.monotonic() < until and process.poll() is None:
            for file in (tmp_path / "runtime").glob("jpserver-*.json"):
                try:
                    about = json.loads(file.read_text())
                    urllib.request.urlopen(f"{about['url']}api/status?token={about['token']}", timeout=2)
                    return process, about
                except (ValueError, OSError):
                    pass  # half written, or not listening yet
            time.sleep(0.1)
        process.kill()
        pytest.fail(f"it did not start: {process.stdout.read().decode()}")

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_the_lab_serves_the_first_notebook_on_the_next_free_port_and_ends_at_once_on_ctrl_c(started):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process, about = started("--port", str(port))
        assert about["port"] != port
        with urllib.request.urlopen(f"{about['url']}?token={about['token']}", timeout=20) as opened:
            assert opened.url.split("?")[0].endswith(f"/lab/tree/{FIRST}")
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0  # stdin is open and silent: no question was asked


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def answer_of(url: str, **headers) -> tuple[int, str]:
    """Status and location of what a server says."""
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as opened:
            return opened.status, opened.url
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers.get("Location", "")


def test_the_pages_are_for_whoever_has_the_token_and_for_no_other_host(tmp_path):
    command = [sys.executable, "-m", "smft_lab.cli", "lab", "--app", "--no-browser", "--folder", "notes"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, "--port", str(port)], cwd=tmp_path, **out) as process:
        try:
            url = next(found[0] for line in process.stdout if (found := re.findall(r"http://\S+token=[0-9a-f]+", line)))
            plain = url.split("?")[0]
            assert answer_of(url)[0] in (200, 302)
            with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(url, timeout=20) as opened:
                assert opened.status == 200
                assert "login" not in opened.url
            for path in (
                "",
                f"voila/render/notebooks/{FIRST}",
                "voila/render/panels/top_t.ipynb",
                "api/kernels/0-0-0-0-0",
            ):
                status, where = answer_of(plain + path)
                assert status == 403 or (status == 302 and "login" in where), (path, status, where)
            assert answer_of(plain + "?token=" + 48 * "0")[0] in (302, 403)
            assert answer_of(url, Host="harmless.example")[0] == 403
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_browser_is_given_the_token_in_a_file_and_not_on_its_command_line(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(launch.webbrowser, "open", opened.append)
    app = launch._voila(tmp_path, tmp_path)
    monkeypatch.setattr(app, "display_url", "http://localhost:1/?token=secret")
    app.launch_browser(app.__new__(app))
    while not opened:
        time.sleep(0.01)
    assert "secret" not in opened[0]
    assert "url=http://localhost:1/?token=secret" in (tmp_path / "open.html").read_text()


def test_the_kernel_of_a_page_that_is_gone_ends_after_an_hour(tmp_path):
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
    from voila.configuration import VoilaConfiguration

    (option,) = (option for option in launch.voila_options(tmp_path, False, None) if "cull" in option)
    assert option == "--MappingKernelManager.cull_idle_timeout=3600"
    manager = VoilaConfiguration().multi_kernel_manager_class
    assert issubclass(manager, MappingKernelManager)
    assert "cull_idle_timeout" in manager.class_traits()
    assert not manager().cull_connected  # a page that is open keeps its kernel, however long nobody touches it
