"""Attack the package, and print how often it was tried and how often something broke.

Each attack is a test that is tried often. `--times 10` tries ten times as often as `--times 1`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
ATTACKS = {  # and the tests that carry it out
    "Ctrl-C while training": ("test_interrupts.py", "at_any_line_leaves_nothing_that"),
    "Ctrl-C while the model is read": ("test_interrupts.py", "an_interrupt_of_what_reads"),
    "A call in another thread while training": ("test_interrupts.py", "a_reading_call"),
    "Ctrl-C twice, the second in the teardown": ("test_interrupts.py", "two_interrupts"),
    "Ctrl-C while a command works": ("test_stopped_commands.py", ""),
    "A process killed while it writes": ("test_kills.py", ""),
    "A damaged file of a lab, a patch or facts": ("test_bad_files.py", "damaged"),
    "A panel opened, used and closed": ("test_closed_panels.py", "freed"),
}


def attacked(file: str, which: str, settings: dict[str, str]) -> tuple[int, int]:
    """How often the tests of a file tried, and how often something broke."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(HERE / file), "-k", which, "-o", "junit_family=xunit1"]
        command.append(f"--junitxml={report}")
        subprocess.run(command, env={**os.environ, **settings}, stdout=sys.stderr, check=False)
        tried = broke = 0
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            noted = {one.get("name"): one.get("value") for one in case.iter("property")}
            failed = case.find("failure") is not None or case.find("error") is not None
            tried += int(noted.get("tried", 1))
            broke += max(int(noted.get("broke", 0)), int(failed))
        return tried, broke


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1, help="try so many times as often")
    times = parser.parse_args().times
    often = {"INTERRUPTS": 8, "STOPS": 3, "KILLS": 3, "PANELS": 3}
    settings = {f"SMFT_LAB_{name}": str(count * times) for name, count in often.items()}
    if times > 1:
        settings["SMFT_LAB_DAMAGES"] = str(40 * times)
    rows = {name: attacked(*tests, settings) for name, tests in ATTACKS.items()}
    print("| attack | tried | broke |\n|---|---:|---:|")
    for name, (tried, broke) in rows.items():
        print(f"| {name} | {tried:,} | {broke:,} |")
    sys.exit(any(broke for _, broke in rows.values()))


if __name__ == "__main__":
    main()
