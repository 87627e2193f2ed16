"""`.ci/release` makes a version: written where it stands, dated, committed and tagged, or refused."""

import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = (".ci/release", "CHANGELOG.md", "CITATION.cff", "smft_lab/__init__.py")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "somebody@example.org")
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "All"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def release(repository, version):
    command = [sys.executable, str(repository / ".ci" / "release"), version]
    return subprocess.run(command, capture_output=True, text=True, cwd=repository.parent)


def tags(repository):
    return subprocess.run(["git", "tag"], cwd=repository, capture_output=True, text=True).stdout.split()


def test_a_version_is_written_dated_and_tagged(repository):
    done = release(repository, "1.2.3")
    assert done.returncode == 0, done.stderr
    assert tags(repository) == ["v1.2.3"]
    assert '__version__ = "1.2.3"' in (repository / "smft_lab" / "__init__.py").read_text()
    today = date.today().isoformat()
    assert f"version: 1.2.3\ndate-released: {today}\n" in (repository / "CITATION.cff").read_text()
    assert f"## Unreleased\n\n## 1.2.3 ({today})\n" in (repository / "CHANGELOG.md").read_text()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True)
    assert status.stdout == ""


def test_the_next_version_takes_the_place_of_the_last(repository):
    release(repository, "1.2.3")
    changes = repository / "CHANGELOG.md"
    changes.write_text(changes.read_text().replace("## Unreleased\n", "## Unreleased\n\n- New.\n"))
    subprocess.run(["git", "commit", "--all", "--quiet", "--message", "More"], cwd=repository, check=True)
    assert release(repository, "1.3.0").returncode == 0
    assert (repository / "CITATION.cff").read_text().count("date-released") == 1
    assert tags(repository) == ["v1.2.3", "v1.3.0"]


def uncommitted(repository):
    (repository / "CHANGELOG.md").write_text("# Changes")


def nothing_new(repository):
    (repository / "CHANGELOG.md").write_text("# Changes\n\n## Unreleased\n\n## 0.0.1 (2020-01-01)\n\n- Old.\n")
    subprocess.run(["git", "commit", "--all", "--quiet", "--message", "Less"], cwd=repository, check=True)


def tagged(repository):
    subprocess.run(["git", "tag", "v1.2.3"], cwd=repository, check=True)


@pytest.mark.parametrize(
    ("version", "before", "said"),
    [
        ("1.2", lambda _: None, "three numbers"),
        ("1.2.3", uncommitted, "not committed"),
        ("1.2.3", nothing_new, "nothing under"),
        ("1.2.3", tagged, "tagged already"),
    ],
)
def test_what_is_no_version_is_refused(repository, version, before, said):
    before(repository)
    had = tags(repository)
    done = release(repository, version)
    assert done.returncode == 1
    assert said in done.stderr
    assert tags(repository) == had
