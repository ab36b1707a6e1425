"""Jobs of a benchmark: processes with one thread each, in the order of what they need, of which some run at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _environment import write_json

ENDED = "ended.json"
"""File that a job leaves in its folder when it has ended."""


@dataclass(frozen=True)
class Job:
    """A process.

    Attributes:
        name: its folder below `--runs`.
        words: arguments of Python; `FOLDER` is replaced by its folder.
        needs: jobs that have to end before.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


def run_jobs(runs: Path, jobs: Sequence[Job], at_once: int) -> int:
    """Run the jobs that have not ended, some at a time with one thread each; return the number that failed.

    A job whose needs failed is left out.

    Raises:
        ValueError: a job has other arguments than the one that ended.
    """
    waiting = [job for job in jobs if not _has_ended(runs, job)]
    ended = {job.name for job in jobs} - {job.name for job in waiting}
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: set[str] = set()
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        while waiting or running:
            for job in [job for job in waiting if failed & set(job.needs)]:
                waiting.remove(job)
                failed.add(job.name)
            for job in [job for job in waiting if ended >= set(job.needs)][: at_once - len(running)]:
                waiting.remove(job)
                print(f"{job.name}: started", flush=True)
                running[subprocess.Popen(_command(runs, job), env=one_thread)] = job
            for process in [one for one in running if one.poll() is not None]:
                job = running.pop(process)
                if process.returncode:
                    print(f"{job.name}: stopped with exit code {process.returncode}; the same command continues")
                    failed.add(job.name)
                else:
                    write_json(runs / job.name / ENDED, {"words": list(job.words)})
                    ended.add(job.name)
            time.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
            process.wait()
    return len(failed)


def _has_ended(runs: Path, job: Job) -> bool:
    file = runs / job.name / ENDED
    if not file.exists():
        return False
    if json.loads(file.read_text(encoding="utf-8"))["words"] != list(job.words):
        raise ValueError(f"{file.parent} was made with other settings; choose another --runs, or remove it")
    return True


def _command(runs: Path, job: Job) -> list[str]:
    folder = runs / job.name
    words = [str(folder) if word == "FOLDER" else word for word in job.words]
    resume = ["--resume"] if "train" in words[:3] and (folder / "config.yaml").exists() else []
    return [sys.executable, *words, *resume]
