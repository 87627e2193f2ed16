"""The results that come with the project: the recorded claims are what its result files say, and README.md and the
pages of docs/ tell the same."""

import json
import re
from pathlib import Path

import pytest

from smft_lab.cli.reproduce import reproduce
from smft_lab.reproduce.claims import Claim
from smft_lab.reproduce.plan import WHOLE, jobs_of
from smft_lab.reproduce.sweep import result_file

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reproduction"
RECORD = json.loads((FOLDER / "claims.json").read_text(encoding="utf-8"))
SEEDS = RECORD["settings"]["seeds"]


def page_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def section_of(name: str, heading: str) -> str:
    """What a page says under a heading, up to the next."""
    return in_one_line(page_of(name).split(f"\n## {heading}\n")[1].split("\n## ")[0])


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> Path:
    """What `smft-lab reproduce all` makes of the result files."""
    jobs = {job for name in RECORD["claims"] for job in jobs_of(name, SEEDS, WHOLE, "", FOLDER / "models")}
    lacking = [job.key for job in jobs if not result_file(FOLDER / "runs", job).exists()]
    assert not lacking, f"run: smft-lab reproduce {' '.join(RECORD['claims'])} --out docs/reproduction"
    out = tmp_path_factory.mktemp("reproduction")
    (out / "runs").symlink_to(FOLDER / "runs")
    reproduce(["all"], SEEDS, out=out, workers=1)
    return out


@pytest.mark.parametrize("name", ["claims.json", "claims.md", "runs.md"])
def test_the_recorded_claims_are_what_the_result_files_say(name, again):
    assert (again / name).read_text(encoding="utf-8") == (FOLDER / name).read_text(encoding="utf-8")


def test_the_page_names_every_result_file_and_no_other_is_there(again):
    page = (again / "report.html").read_text(encoding="utf-8")
    files = [file.name for file in (FOLDER / "runs").iterdir()]
    assert len(files) == RECORD["settings"]["runs"]
    assert all(f"<code>{name}</code>" in page for name in files)


def test_every_claim_says_how_many_results_it_is_read_from_and_each_of_them_is_linked():
    files = {file.stem for file in (FOLDER / "runs").iterdir()}
    linked = set()
    for name, claims in RECORD["claims"].items():
        section = page_of("docs/reproduction/runs.md").split(f"\n## {name}\n")[1].split("\n## ")[0]
        keys = re.findall(r"\]\(runs/(\w+)\.json\)", section)
        assert len(keys) == len(set(keys))
        assert f" from {len(keys)} results." in section
        lines = page_of("docs/reproduction/claims.md").splitlines()
        for claim in claims:
            (line,) = (line for line in lines if line.startswith(f"| {claim['text']} "))
            assert line.endswith(f"| `{name}`: {len(keys)} |")
        linked |= {*keys}
    assert linked == files


def test_the_page_of_the_reproduction_tells_every_claim_of_the_paper():
    page = page_of("docs/reproduction.md")
    head, rule, *rows = page.split("<!-- claims -->\n")[1].split("\n\n")[0].splitlines()
    on_record = (FOLDER / "claims.md").read_text(encoding="utf-8").splitlines()
    assert {head, rule} <= set(on_record)
    papers = [Claim(**claim) for claims in RECORD["claims"].values() for claim in claims]
    papers = [claim for claim in papers if claim.is_the_papers]
    assert rows == [line for line in on_record if any(line.startswith(f"| {claim.text} ") for claim in papers)]
    assert len(rows) == len(papers)


def test_readme_and_page_count_as_the_record_does():
    counts = (FOLDER / "claims.md").read_text(encoding="utf-8").split(" Lin et al.")[0].split("\n\n")[1]
    page = in_one_line(page_of("docs/reproduction.md"))
    assert counts in page
    papers, _, _ = counts.partition(".")
    assert papers in in_one_line(page_of("README.md"))
    settings = RECORD["settings"]
    assert f"{settings['seconds of computing']:,} seconds of computing" in page
    assert f"Its {settings['runs']} results" in page


def said_of(*names: str) -> str:
    return " ".join(f"{claim['ours']} {claim['why']}" for name in names for claim in RECORD["claims"][name])


def told_shares(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d% ± \d+\.\d", text))


def told_points(text: str) -> set[str]:
    """Points with an interval, without its unit and signs: a page turns a difference round to say "less"."""
    return set(
        re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", re.sub(r" points| more| less|(?<![\d.])[-+](?=\d)", "", text))
    )


def turned_round(points: set[str]) -> set[str]:
    """The other sign: an interval's ends change places."""
    return {re.sub(r"\[(.*), (.*)\]", r"[\2, \1]", one) for one in points}


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("docs/reproduction.md", "What the choice of slots does", ["selection"]),
        ("docs/reproduction.md", "Passages", ["documents"]),
        ("docs/reproduction.md", "The limit of a long stream", ["capacity", "retention", "protect"]),
        ("docs/results.md", "Other rates and ranks", ["pareto"]),
    ],
)
def test_what_a_page_says_in_words_is_on_record(page, heading, names):
    words = section_of(page, heading)
    assert told_shares(words)
    assert told_shares(words) <= told_shares(said_of(*names))
    points = told_points(said_of(*names))
    assert told_points(words) <= points | turned_round(points)


def test_what_the_page_says_of_a_long_stream_is_on_record():
    limit = section_of("docs/reproduction.md", "The limit of a long stream")
    ours = said_of("capacity", "retention")
    assert told_shares(ours) <= told_shares(limit)
    protected = re.findall(r"write log x \d: learned [^,]*, kept ([^;]*);", said_of("protect"))
    assert len(protected) == 2
    assert set(protected) <= told_shares(limit)
    first, *_, last = re.search(r"at its end: ([^;]*);", ours)[1].split(", ")
    again, rows = re.search(r"(\S*) of the facts once answered were lost again; (\S*) rows changed", ours).groups()
    assert all(share in limit for share in (first, last, again, rows))
