"""Resumable copying and conversion of downloads: a list of jobs, each of which writes a few files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab2pix.data.prepare.sources import Listing, Member, list_source
from lab2pix.errors import ConfigError, OutputError, did_you_mean
from lab2pix.utils.files import atomic_write
from lab2pix.utils.threads import available_processors

Splits = Sequence[str]

Progress = Callable[[int, int], None]
"""Takes the number of jobs done and their total."""


@dataclass(frozen=True)
class Job:
    """Files to write from files of a download.

    Attributes:
        targets: paths below the output folder.
        members: files that are read.
        convert: makes the contents of the targets from those of the members; None: they are copied.
    """

    targets: tuple[str, ...]
    members: tuple[Member, ...]
    convert: Callable[[Sequence[bytes]], Sequence[bytes]] | None = None


@dataclass(frozen=True)
class PublishedSet:
    """How the download of a published dataset becomes what presets read.

    Attributes:
        format: dataset format that is written.
        label_space: its label space.
        train: preset and settings that train on it, besides `data.root`.
        plan: finds the jobs in a download, of splits that must be there and of splits that need not.
        splits: splits that must be there.
        more_splits: splits that are used if they are there.
    """

    format: str
    label_space: str
    train: str
    plan: Callable[[Listing, Splits, Splits], list[Job]]
    splits: tuple[str, ...] = ("train", "val")
    more_splits: tuple[str, ...] = ()


def prepare_set(
    dataset: PublishedSet,
    source: Path,
    out: Path,
    split: str | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[int, int]:
    """Write what presets read from the download of a published dataset; a second run continues the first.

    Files that are there already stay as they are.

    Args:
        dataset: the dataset.
        source: folder or archive of the download.
        out: folder to write.
        split: only this split.
        progress: called after each job.

    Returns:
        Number of files written, and of those that were there already.

    Raises:
        ConfigError: the dataset has no such split.
        DataError: a part of the download is missing or damaged.
        OutputError: `out` is the source, or a file in it has another size than the one to copy.
    """
    known = (*dataset.splits, *dataset.more_splits)
    if split is not None and split not in known:
        raise ConfigError(f"--split is '{split}', which this dataset does not have{did_you_mean(split, known)}")
    if source.resolve() == out.resolve():
        raise OutputError(f"{out} is the folder of the download itself; choose another folder to write to")
    with list_source(source, out) as listing:
        required, optional = (dataset.splits, dataset.more_splits) if split is None else ((split,), ())
        found = dataset.plan(listing, required, optional)
        jobs = {job.targets[0]: job for job in reversed(found)}  # of two sources of a file, the first one counts
        pending = [job for job in jobs.values() if not _is_done(job, out)]
        pending.sort(key=lambda job: job.members[0].order)
        written = _run(pending, out, progress)
    return written, sum(len(job.targets) for job in jobs.values()) - written


def _is_done(job: Job, out: Path) -> bool:
    """Return whether all files of a job are there.

    Raises:
        OutputError: a file has another size than the one to copy.
    """
    for number, target in enumerate(job.targets):
        path = out / target
        if not path.exists():
            return False
        if job.convert is None and path.stat().st_size != job.members[number].size:
            raise OutputError(
                f"{path} is there already, but is another file than {job.members[number].path}; move it away, or "
                "choose another folder"
            )
    return True


def _run(jobs: Sequence[Job], out: Path, progress: Progress) -> int:
    """Run jobs: one thread reads, the others convert and write; return the number of files written."""
    workers = min(8, available_processors())
    waiting: deque[Future[int]] = deque()
    written = done = 0
    with ThreadPoolExecutor(workers) as pool:
        for job in jobs:
            contents = [member.read() for member in job.members]
            waiting.append(pool.submit(_write, job, out, contents))
            while len(waiting) > 4 * workers:
                written, done = written + waiting.popleft().result(), done + 1
                progress(done, len(jobs))
        for result in waiting:
            written, done = written + result.result(), done + 1
            progress(done, len(jobs))
    return written


def _write(job: Job, out: Path, contents: Sequence[bytes]) -> int:
    results = contents if job.convert is None else job.convert(contents)
    written = 0
    for target, content in zip(job.targets, results, strict=True):
        path = out / target
        if not path.exists():
            with atomic_write(path, sync=False) as [unfinished]:
                unfinished.write_bytes(content)
            written += 1
    return written
