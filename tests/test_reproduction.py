"""The results that come with the project: every claim is what its result files say, and the README tells the same."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from smft_lab.reproduce.claims import Claim
from smft_lab.reproduce.sweep import result_file
from smft_lab.reproduce_cli import WHOLE, jobs_of, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reproduction"
RECORD = json.loads((FOLDER / "claims.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORD["claims"])
def test_a_claim_is_what_the_result_files_say(name):
    jobs = jobs_of(name, RECORD["settings"]["seeds"], WHOLE, "", FOLDER / "models")
    lacking = [job.key for job in jobs if not result_file(FOLDER / "runs", job).exists()]
    assert not lacking, f"run: smft-lab reproduce {' '.join(RECORD['claims'])} --out docs/reproduction"
    *_, claims = read(name, jobs, FOLDER / "runs")
    assert [asdict(claim) for claim in claims] == RECORD["claims"][name]


def test_the_claims_to_read_are_the_claims_on_record():
    text = (FOLDER / "claims.md").read_text(encoding="utf-8")
    for claims in RECORD["claims"].values():
        for claim in claims:
            assert claim["ours"] in text


def test_the_readme_tells_every_claim_of_the_paper():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, rule, *rows = readme.split("<!-- claims -->\n")[1].split("\n\n")[0].splitlines()
    on_record = (FOLDER / "claims.md").read_text(encoding="utf-8").splitlines()
    assert {head, rule} <= set(on_record)
    papers = [Claim(**claim) for claims in RECORD["claims"].values() for claim in claims]
    papers = [claim for claim in papers if claim.is_the_papers]
    assert rows == [line for line in on_record if any(line.startswith(f"| {claim.text} ") for claim in papers)]
    assert len(rows) == len(papers)
