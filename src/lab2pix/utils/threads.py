"""OpenMP settings and available processors: how PyTorch's threads wait, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def configure_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting OpenMP threads sleep soon, and limit their number to a container's processors.

    By default, GNU's threads spin for milliseconds at the end of each parallel region. Next to another busy process
    they take the processor from the very thread they wait for, which slows a training step by up to an order of
    magnitude. Threads that sleep at once double a step of a narrow network on an idle machine, as waking them takes as
    long as a region; a short spin is nearly as fast as a long one there. OpenMP reads the environment when PyTorch is
    loaded, so call this before. Variables that are set are kept.

    Args:
        environment: environment variables to change.
    """
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = "1000"  # GNU; iterations
        environment["KMP_BLOCKTIME"] = "1"  # Intel and LLVM; milliseconds
    quota = _quota()
    if quota is not None:
        environment.setdefault("OMP_NUM_THREADS", str(quota))


def available_processors() -> int:
    """Return the number of processors this process may use, by its affinity and its container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(affinity, _quota() or affinity)


def _quota(root: Path = _CGROUPS) -> int | None:
    """Return the processors of the control group's quota, at least 1; None if unlimited.

    Args:
        root: mount point of the control groups (version 2: `cpu.max`; version 1: `cpu/cpu.cfs_quota_us`).
    """
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        processors = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or "max"
        return None
    return max(1, math.ceil(processors)) if processors > 0 else None
