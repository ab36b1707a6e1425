"""Number of PyTorch's threads, how they wait, and the processors that are available and free."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_STAT = Path("/proc/stat")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_GIVEN = any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
_SHORTEST, _LONGEST = 0.1, 60.0  # seconds of a measurement of free processors


def configure_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting OpenMP threads sleep soon, and limit their number to a container's processors.

    By default, GNU's threads spin for milliseconds at the end of each parallel region. Next to another busy process
    they take the processor from the very thread they wait for, which slows a training step by up to an order of
    magnitude. Threads that sleep at once double a step of a narrow network on an idle machine, as waking them takes as
    long as a region; a short spin is nearly as fast as a long one there (ADR 0024). OpenMP reads the environment when
    PyTorch is loaded, so call this before. Variables that are set are kept.

    Args:
        environment: environment variables to change.
    """
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = "3000"  # GNU; iterations
        environment["KMP_BLOCKTIME"] = "1"  # Intel and LLVM; milliseconds
    quota = _quota()
    if quota is not None:
        environment.setdefault("OMP_NUM_THREADS", str(quota))


def available_processors() -> int:
    """Return the number of processors this process may use, by its affinity and its container's quota."""
    affinity = len(_affinity())
    return min(affinity, _quota() or affinity)


def choose_threads(most: int) -> int:
    """Return the number of processors that other programs leave to this process, from 1 to `most`.

    Threads that share a processor with another program make all others wait at the end of each parallel region. The
    measurement begins when this module is loaded; if that was long ago or just now, it takes a tenth of a second.
    A number of threads that is set in the environment is kept.

    Args:
        most: PyTorch's number of threads.
    """
    if _GIVEN or most == 1:
        return most
    if not _SHORTEST <= _SINCE_START.seconds <= _LONGEST:
        _SINCE_START.free()
        time.sleep(_SHORTEST)
    processors, free = available_processors(), _SINCE_START.free()
    if free is None:
        free = processors
        with suppress(AttributeError, OSError):  # Windows, or a container that hides it
            free = processors - os.getloadavg()[0]
    return max(1, min(most, processors, math.floor(free + 0.5)))


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the results of a function that reads files, computed in parallel threads, in the order of the items."""
    with ThreadPoolExecutor(min(8, available_processors())) as pool:
        for start in range(0, len(items), 256):  # in chunks, to bound the memory of pending results
            yield from pool.map(function, items[start : start + 256])


@contextmanager
def limit_threads(count: int | None, started_with: int | None = None) -> Iterator[int]:
    """Let PyTorch compute with some of its threads, and with all of them again at the end.

    Args:
        count: number of threads; None: `started_with`, or as many as there are free processors.
        started_with: number at an earlier time, which may be more than there are here.

    Yields:
        The number before.
    """
    import torch

    most = torch.get_num_threads()
    if count is None:
        count = choose_threads(most) if started_with is None else min(most, started_with)
    if count == most:
        yield most
        return
    torch.set_num_threads(count)
    try:
        yield most
    finally:
        torch.set_num_threads(most)


class ProcessorMeter:
    """Meter of the processors that other programs leave to this process."""

    def __init__(self) -> None:
        self._last = _read_times()

    @property
    def seconds(self) -> float:
        """Seconds since the meter was made or `free` was called."""
        return time.monotonic() - self._last.clock

    def free(self) -> float | None:
        """Return the mean number of processors in that time that were idle or worked for this process, and restart.

        None where the system does not count idle time.
        """
        before, self._last = self._last, _read_times()
        clock, own, idle, ticks = (now - then for now, then in zip(self._last, before, strict=True))
        if ticks <= 0 or clock <= 0:
            return None
        return len(_affinity()) * idle / ticks + own / clock


class _Times(NamedTuple):
    """Wall clock and processor time of this process in seconds; idle time and all time of its processors in ticks."""

    clock: float
    own: float
    idle: int
    ticks: int


def _read_times() -> _Times:
    idle = ticks = 0
    mine = {f"cpu{number}" for number in _affinity()}
    with suppress(OSError, ValueError):  # not Linux
        for line in _STAT.read_text().splitlines():
            name, *fields = line.split()
            if name in mine:
                times = [int(field) for field in fields[:8]]  # the others are part of the first two
                idle, ticks = idle + times[3] + times[4], ticks + sum(times)  # waiting for disks is idle, too
    return _Times(time.monotonic(), time.process_time(), idle, ticks)


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """Return the processors of the smallest quota of the process's control groups, at least 1; None if unlimited.

    Args:
        root: mount point of the control groups (version 2: `cpu.max`; version 1: `cpu/cpu.cfs_quota_us`).
        membership: file with the control groups of the process, a line `ID:CONTROLLERS:PATH` for each.
    """
    groups = [(root, root / "cpu")]
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            parts = [part for part in Path(path.strip("/")).parts if part != ".."]
            if not controllers or "cpu" in controllers.split(","):
                nested = [Path(*parts[: end + 1]) for end in range(len(parts))]
                groups += [(root / group, root / "cpu" / group) for group in nested]
    quotas = [quota for pair in groups if (quota := _group_quota(*pair)) is not None]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _group_quota(second: Path, first: Path) -> float | None:
    """Return the processors of one control group, by its folder in versions 2 and 1; None if unlimited."""
    try:
        if (second / "cpu.max").exists():
            limit, period = (second / "cpu.max").read_text().split()
        else:
            limit = (first / "cpu.cfs_quota_us").read_text().strip()
            period = (first / "cpu.cfs_period_us").read_text().strip()
        processors = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or "max"
        return None
    return processors if processors > 0 else None


_SINCE_START = ProcessorMeter()
