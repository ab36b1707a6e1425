"""What a benchmark's numbers were measured with, for the file that holds them."""

from __future__ import annotations

import json
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import lab2pix

__all__ = ["in_turns", "peak_resident", "processor", "surroundings", "write_json"]


def processor() -> str:
    """Return what the machine computes on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def peak_resident() -> float:
    """Return the most memory that this process held, in MiB.

    Linux says it in /proc; what getrusage says there begins with what the process held that this one was started by.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    highest = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (highest[0] if highest else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each call, after one of each to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if repeat:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def surroundings() -> dict[str, Any]:
    """Return command, machine and versions."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {"lab2pix": lab2pix.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write what was found, in a folder that is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
