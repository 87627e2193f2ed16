"""Many jobs into one folder of results: one file each, named by the hash of the job, so that nothing runs twice.

A sweep killed at any moment loses the jobs under way and nothing else; the same command goes on. Several machines may
work into one folder: each takes what has no result yet, in an order of its own.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import SystemRandom
from threading import Thread

import pandas as pd

from smft_lab.reproduce.jobs import Job
from smft_lab.writing import write_whole

BACKENDS = ("local", "dask", "ray")
RAY_PORTION = 64


def result_file(folder: Path, job: Job) -> Path:
    """Where the result of a job is, or will be."""
    return folder / f"{job.key}.json"


def read_result(folder: Path, job: Job) -> dict | None:
    """The result of a job; None if there is none yet.

    Raises:
        ValueError: the file isn't one that this wrote.
    """
    file = result_file(folder, job)
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(result["rows"], list) and isinstance(result["found"], dict)):
            raise TypeError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is no result of a job; delete it, and the job runs again") from None
    return result


def sweep(jobs: Sequence[Job], folder: str | Path, backend: str = "local", address: str | None = None,
          workers: int = 1, device: str = "cpu") -> Iterator[tuple[int, int, Job | None]]:  # fmt: skip
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


def _in_parallel(folder: Path, jobs: Sequence[Job], backend: str, workers: int, device: str) -> Iterator[str]:
    """Keys of the jobs as they end."""
    from joblib import Parallel, delayed

    parent = os.getpid() if backend == "local" else None
    calls = [delayed(_keep)(folder, job, device, parent) for job in jobs]
    if backend == "ray":  # hands nothing back before all is done, so that progress needs portions
        for start in range(0, len(jobs), RAY_PORTION):
            yield from Parallel()(calls[start : start + RAY_PORTION])
        return
    options = {"n_jobs": workers} if backend == "local" else {}
    yield from Parallel(return_as="generator_unordered", **options)(calls)


def _keep(folder: Path, job: Job, device: str, parent: int | None = None) -> str:
    if parent is not None and parent != os.getpid():
        _end_with(parent)
    if not result_file(folder, job).exists():  # another machine may have been here
        write_whole(result_file(folder, job), json.dumps(job.run(device)) + "\n")
    return job.key


@cache
def _end_with(parent: int) -> None:
    """Let this process end when the one that started it is gone: killed, it can't tell its workers to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:
        Thread(target=watch, daemon=True).start()


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
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise ValueError("--backend ray needs ray: pip install 'smft-lab[ray]'") from None
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        register_ray()
        with parallel_config(backend="ray", n_jobs=-1):
            yield
    else:
        raise ValueError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")


def table_of(jobs: Sequence[Job], folder: str | Path) -> pd.DataFrame:
    """All rows of the results: the job's fields, `key` (the file they are in), step, probe, metric, value."""
    rows = []
    for job in dict.fromkeys(jobs):
        result = read_result(Path(folder), job)
        if result is not None:
            rows += [{**result["config"], "key": job.key, **row} for row in result["rows"]]
    return pd.DataFrame(rows)
