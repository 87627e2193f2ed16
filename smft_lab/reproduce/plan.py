"""What `smft-lab reproduce` runs, and what it leaves: the jobs of the experiments that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from smft_lab.model.memory import memory_layers
from smft_lab.reproduce.experiments import EXPERIMENTS
from smft_lab.reproduce.jobs import Job, opened, with_defaults
from smft_lab.reproduce.page import RUNS_TEXT, Part, claims_text, report_html, runs_text
from smft_lab.reproduce.scale import OWN, model_folder, pretrained
from smft_lab.reproduce.sweep import read_result, sweep, table_of
from smft_lab.storage import LAB_FILE
from smft_lab.writing import check_replaceable, json_text, write_together

CLAIMS, CLAIMS_TEXT, REPORT = "claims.json", "claims.md", "report.html"
WHOLE = {"facts": 40, "passes": 12, "evaluations": 8, "pretraining": 4200}
QUICK = {"facts": 3, "passes": 8, "evaluations": 2, "pretraining": 20}


class Plan:
    """Some experiments on one lab, resumable: `pretrain()` and `run()` do the work, `write()` says what came of it.

    Args:
        names: Of experiments; none stands for all.
        lab: Folder of a lab of the built-in world; the shipped one if None.
        out: Folder of the results and pages.

    Raises:
        OSError: `out` can't be written.
        ValueError: no such experiment, or one that this lab isn't for; or files at `out` are of something else.
    """

    def __init__(self, names: Sequence[str], seeds: int, quick: bool, lab: Path | None, out: Path, device: str = "cpu"):
        if strangers := [name for name in names if name not in EXPERIMENTS]:
            raise ValueError(f"no experiment {strangers[0]!r}; there are {', '.join(EXPERIMENTS)} and all")
        check_replaceable(out, (CLAIMS, CLAIMS_TEXT, RUNS_TEXT, REPORT), CLAIMS, ("settings", "claims"))
        self.names, self.seeds, self.out, self.device = list(names or EXPERIMENTS), seeds, out, device
        self.size = QUICK if quick else WHOLE
        folder = "" if lab is None else str(lab.resolve())
        self.base = opened(folder, device)
        self._check(lab)
        models = out / "models"
        self.jobs = {name: jobs_of(name, seeds, self.size, folder, models, device) for name in self.names}

    def _check(self, lab: Path | None) -> None:
        if self.base.world_seed is None:
            raise ValueError(f"{lab} is not a lab of the built-in world; these experiments teach its facts")
        k = memory_layers(self.base.model)[0].keys.k
        if (self.base.slots, k) != OWN and (beside := {"scale", "retention"} & set(self.names)):
            raise ValueError(
                f"{' and '.join(sorted(beside))}: other tables are set beside one of {OWN[0]:,} slots with {OWN[1]} "
                f"reads per head, and {lab} has {self.base.slots:,} with {k}; name the other experiments"
            )

    @property
    def all_jobs(self) -> list[Job]:
        return [job for jobs in self.jobs.values() for job in jobs]

    @property
    def results(self) -> Path:
        return self.out / "runs"

    def pretrain(self) -> Iterator[tuple[str, int, int]]:
        """Make the models of their own that unfinished jobs ask for; see `pretrain_models`."""
        jobs = [job for job in self.all_jobs if job.slots and read_result(self.results, job) is None]
        return pretrain_models(jobs, self.out / "models")

    def run(self, backend: str, address: str | None, workers: int) -> Iterator[tuple[int, int, Job | None]]:
        """Run what has no result yet; yields as `sweep` does."""
        return sweep(self.all_jobs, self.results, backend, address, workers, self.device)

    def write(self) -> list[Part]:
        """Write `claims.json`, `claims.md`, `runs.md` and `report.html`.

        Returns:
            Per experiment what `read` gives.
        """
        parts = [read(name, self.jobs[name], self.results) for name in self.names]
        record = {experiment.name: [asdict(claim) for claim in claims] for experiment, *_, claims in parts}
        about = self._about()
        texts = {
            CLAIMS: json_text({"settings": about, "claims": record}, indent=2),
            CLAIMS_TEXT: claims_text(about, parts),
            RUNS_TEXT: runs_text(parts, self.results.name),
            REPORT: report_html(about, parts),
        }
        write_together({self.out / name: text for name, text in texts.items()})
        return parts

    def _about(self) -> dict:
        jobs, keys = dict.fromkeys(self.all_jobs), memory_layers(self.base.model)[0].keys
        ended = (read_result(self.results, job) for job in jobs)
        seconds = sum(result["seconds"] for result in ended if result is not None)
        return {
            **self.size,
            "seeds": self.seeds,
            "base": self.all_jobs[0].base,
            "parameters": self.base.model.num_parameters(),
            "slots": self.base.slots,
            "reads per token": keys.heads * keys.k,
            "runs": len(jobs),
            "seconds of computing": round(seconds),
        }


def jobs_of(name: str, seeds: int, size: dict, folder: str, models: Path, device: str = "cpu") -> list[Job]:
    """The jobs of an experiment: `size` is `WHOLE` or `QUICK`, `folder` the lab's ("" is the shipped one)."""
    drafts = [Job(**size, seed=seed, lab=folder) for seed in range(seeds)]
    return [whole_job(job, models, device) for draft in drafts for job in EXPERIMENTS[name].jobs(draft)]


def whole_job(job: Job, models: Path, device: str = "cpu") -> Job:
    """The job with all that it leaves to the lab's defaults, and where its model is or will be."""
    whole = with_defaults(job, opened(job.lab, device))
    return replace(whole, lab=str(model_folder(job, models).resolve())) if job.slots else whole


def pretrain_models(jobs: Sequence[Job], models: Path) -> Iterator[tuple[str, int, int]]:
    """Make the models of their own that jobs ask for, but for those that are there.

    Yields:
        (name of the model's folder, steps done, steps of all).
    """
    needed = {model_folder(job, models): job for job in jobs if job.slots}
    for folder, job in needed.items():
        if not (folder / LAB_FILE).exists():
            yield folder.name, 0, job.pretraining
            for record in pretrained(job, models):
                yield folder.name, record.step, job.pretraining


def read(name: str, jobs: Sequence[Job], results: Path) -> Part:
    """The experiment, its rows, what was measured per result besides them, and what it all says."""
    table = table_of(jobs, results)
    details = {job.key: result["found"] for job in jobs if (result := read_result(results, job)) is not None}
    return EXPERIMENTS[name], table, details, EXPERIMENTS[name].read(table, details)
