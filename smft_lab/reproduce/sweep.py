"""Many jobs into one folder of results: one file each, named by the hash of the job, so that nothing runs twice.

A sweep killed at any moment loses the jobs under way and nothing else; the same command goes on. Several machines may
work into one folder: each takes what has no result yet, in an order of its own.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from smft_lab.reproduce.jobs import Job
from smft_lab.training.processes import end_with
from smft_lab.writing import json_text, write_atomically

if TYPE_CHECKING:
    from smft_lab.reproduce.real import RetrofitJob

AnyJob = TypeVar("AnyJob", Job, "RetrofitJob")
BACKENDS = ("local", "dask", "ray")
RAY_PORTION = 64
PLACES = {"lab", "data", "source", "switches"}  # what a job's name says in another way than its result
SHARES = {"em", "f1", "acc"}


def result_file(folder: Path, job: Job | RetrofitJob) -> Path:
    """Where the result of a job is, or will be."""
    return folder / f"{job.key}.json"


def read_result(folder: Path, job: Job | RetrofitJob) -> dict | None:
    """The result of a job; None if there is none yet.

    Raises:
        ValueError: the file isn't one that this wrote.
    """
    file = result_file(folder, job)
    try:
        result = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
        check_result(job, result)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{file} is no result of a job; delete it, and the job runs again ({reason})") from None
    return result


def _no_number(word: str):
    raise ValueError(f"it holds {word}")


def check_result(job: Job | RetrofitJob, result: Any) -> None:
    """Raise ValueError unless a result is one that the job can have had."""
    kinds = {"config": dict, "rows": list, "found": dict, "seconds": int | float}
    if not isinstance(result, dict) or set(result) != set(kinds):
        raise ValueError(f"it is no object of {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(result[name], kind) or (name == "rows" and not result[name]):
            raise ValueError(f"its {name} are {str(result[name])[:40]!r}")
    if not _is_number(result["seconds"]):
        raise ValueError(f"its seconds are {str(result['seconds'])[:40]!r}")
    usual = {field.name: field.default for field in fields(job)}  # of a setting that a result is older than
    for name, value in json.loads(json.dumps(asdict(job))).items():
        had = result["config"].get(name, usual[name])
        if name not in PLACES and had != value:
            raise ValueError(f"its {name} is {str(had)[:40]!r}, but the job's is {value!r}")
    if missing := set(job.finds) - set(result["found"]):
        raise ValueError(f"it found no {sorted(missing)[0]}")
    for name, value in result["found"].items():
        if not FOUND.get(name, _is_number)(value):
            raise ValueError(f"what it found as {name[:40]!r} is {str(value)[:40]!r}")
    if len(result["found"].get("facts", ())) != len(result["found"].get("tokens", ())):
        raise ValueError("it found not as many tokens as facts")
    measured = set()
    for row in result["rows"]:
        if not isinstance(row, dict) or set(row) != {"step", "probe", "metric", "value"}:
            raise ValueError("a row is no object of step, probe, metric, value")
        step, probe, metric, value = row["step"], row["probe"], row["metric"], row["value"]
        if type(step) is not int or step < 0 or not isinstance(probe, str) or not isinstance(metric, str):
            raise ValueError(f"a row has the step {str(step)[:40]!r}, or a probe or a metric that is no name")
        if not _is_number_or_none(value) or (metric in SHARES and (value is None or not 0 <= value <= 1)):
            raise ValueError(f"a row has the {metric} {str(value)[:40]!r}")
        if (step, probe, metric) in measured:
            raise ValueError(f"it has two rows of {probe[:40]} {metric[:40]} at step {step}")
        measured.add((step, probe, metric))
    last = max(step for step, *_ in measured)
    if job.measures and not last:
        raise ValueError("it has no row but of the base")
    for step, probe in product((0, last), job.measures):
        if (step, probe, "em") not in measured:
            raise ValueError(f"it has no row of {probe} em at step {step}")


def _is_number(value) -> bool:
    return _is_number_or_none(value) and value is not None and value >= 0


def _is_number_or_none(value) -> bool:
    """Null stands for what is not finite; a number that no float holds is none."""
    return value is None or (type(value) in (int, float) and abs(value) <= sys.float_info.max)


def _is_known(value) -> bool:
    """Whether this may be the facts that were known, measurement by measurement."""
    steps = [reading["step"] for reading in value]
    facts = [reading["known"] for reading in value]
    return (
        all(type(step) is int for step in steps)
        and sorted({*steps, 0}) == steps
        and {len(known) for known in facts} == {len(facts[0])}
        and all(type(answer) is int and answer in (0, 1) for known in facts for answer in known)
    )


def _is_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_tokens(value) -> bool:
    """Whether this may be, per fact, its tokens with how many slots of its core set each reads."""
    return all(isinstance(token, str) and type(count) is int and count >= 0 for fact in value for token, count in fact)


def _is_addresses(value) -> bool:
    return set(value) == {"same", "different"} and all(map(_is_number_or_none, value.values()))


FOUND = {
    "known": _is_known,
    "facts": _is_texts,
    "tokens": _is_tokens,
    "addresses": _is_addresses,
    **dict.fromkeys(("kl_on_taught", "loudness", "replies"), _is_number_or_none),
}
"""What may stand under `found`; of other names, a number."""


def sweep(
    jobs: Sequence[AnyJob],
    folder: str | Path,
    backend: str = "local",
    address: str | None = None,
    workers: int = 1,
    device: str = "cpu",
) -> Iterator[tuple[int, int, AnyJob | None]]:
    """Run the jobs that have no result in `folder` yet.

    Args:
        backend: `local`; or `dask` or `ray`, to spread over a cluster at `address` through `joblib`.
        workers: Local processes, of one thread each; a single one is this process, with all the threads it has.
        device: Where each computes.

    Yields:
        (jobs done, jobs in all, the job that just ended or None at the start).

    Raises:
        ValueError: an unknown backend, or one whose package is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unique = list(dict.fromkeys(jobs))
    waiting = [job for job in unique if read_result(folder, job) is None]
    done, total = len(unique) - len(waiting), len(unique)
    yield done, total, None
    SystemRandom().shuffle(waiting)  # machines that share a folder start in different places
    if backend == "local" and workers == 1:
        for job in waiting:
            _keep(folder, job, device)
            done += 1
            yield done, total, job
        return
    by_key = {job.key: job for job in waiting}
    with _spread(backend, address):
        for ended in _in_parallel(folder, waiting, backend, workers, device):
            done += 1
            yield done, total, by_key[ended]


def _in_parallel(
    folder: Path, jobs: Sequence[Job | RetrofitJob], backend: str, workers: int, device: str
) -> Iterator[str]:
    """Keys of the jobs as they end."""
    from joblib import Parallel, delayed

    parent = os.getpid() if backend == "local" else None
    calls = [delayed(_keep)(folder, job, device, parent) for job in jobs]
    if backend == "ray":  # hands nothing back before all is done, so that progress needs portions
        for start in range(0, len(jobs), RAY_PORTION):
            ended: Any = Parallel()(calls[start : start + RAY_PORTION])
            yield from ended
        return
    options: dict[str, Any] = {"n_jobs": workers} if backend == "local" else {}
    ended = Parallel(return_as="generator_unordered", **options)(calls)
    yield from ended


def _keep(folder: Path, job: Job | RetrofitJob, device: str, parent: int | None = None) -> str:
    if parent is not None and parent != os.getpid():
        end_with(parent)
    if not result_file(folder, job).exists():  # another machine may have been here
        write_atomically(result_file(folder, job), json_text(job.run(device)))
    return job.key


@contextmanager
def _spread(backend: str, address: str | None) -> Iterator[None]:
    from joblib import parallel_config

    if backend == "local":
        with parallel_config(backend="loky", inner_max_num_threads=1), warnings.catch_warnings():
            # loky replaces a process that has grown, as one does that loads a model, and warns of it each time
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
            yield
    elif backend == "dask":
        try:
            from distributed import Client
        except ImportError:
            raise ValueError("--backend dask needs dask: pip install 'smft-lab[dask]'") from None
        with Client(address) as client, parallel_config(backend="dask", client=client):
            yield
    elif backend == "ray":
        try:
            import ray  # pyright: ignore[reportMissingImports]
            from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError("--backend ray needs ray: pip install 'smft-lab[ray]'") from None
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        register_ray()
        with parallel_config(backend="ray", n_jobs=-1):
            yield
    else:
        raise ValueError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")


def table_of(jobs: Sequence[Job | RetrofitJob], folder: str | Path) -> pd.DataFrame:
    """All rows of the results: the job's fields, `key` (the file they are in), step, probe, metric, value."""
    rows = []
    for job in dict.fromkeys(jobs):
        result = read_result(Path(folder), job)
        if result is not None:
            rows += [{**result["config"], **row, "key": job.key} for row in result["rows"]]
    return pd.DataFrame(rows)
