"""Every result file that comes with the project is found by the job that it is of, however jobs change."""

import json
from pathlib import Path

import pytest

from smft_lab.recipe import EARLIER, RETROFIT
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.real import RetrofitJob
from smft_lab.reproduce.sweep import read_result

DOCS = Path(__file__).parents[1] / "docs"


def results(folder: Path) -> dict[str, dict]:
    """The config of each result by its file's name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8"))["config"] for file in folder.iterdir()}


def plain_job(config: dict) -> Job:
    return Job(**config)


def retrofit_job(config: dict) -> RetrofitJob:
    recipe = {**EARLIER, **config.pop("recipe")}
    usual = RETROFIT.to_dict()
    config["switches"] = tuple((name, value) for name, value in recipe.items() if value != usual[name])
    if config["source"] not in ("people", "questions"):
        config["source"] = str(DOCS / "facts" / config["source"])
    return RetrofitJob(**config)


FOLDERS = [("reproduction", plain_job), ("retrofit", retrofit_job), ("retrofit/neox", retrofit_job)]


@pytest.mark.parametrize(("folder", "job_of"), FOLDERS)
def test_every_result_file_is_the_key_of_its_job(folder, job_of):
    configs = results(DOCS / folder / "runs")
    assert len(configs) > 20
    assert {name: job_of(config).key for name, config in configs.items()} == {name: name for name in configs}


@pytest.mark.parametrize(("folder", "job_of"), FOLDERS)
def test_every_result_file_is_read_as_one_of_its_job(folder, job_of):
    runs = DOCS / folder / "runs"
    assert all(read_result(runs, job_of(config)) for config in results(runs).values())
