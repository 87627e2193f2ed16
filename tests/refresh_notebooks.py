"""Run notebooks from top to bottom and keep their outputs:  python tests/refresh_notebooks.py [NAME...]

What a live panel shows is kept as a still picture, so that it is seen where no kernel runs.
"""

import sys
from pathlib import Path

import nbformat
from notebook_runs import FOLDER, execute


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook, seconds = execute(path)
        nbformat.write(notebook, path)
        print(f"{path.name}: {seconds:.0f} s, {Path(path).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
