"""Training many runs, one after the other, each in a process of its own: what ended stays, what was cut off goes on."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from lab2pix.recipes import load_config
from lab2pix.training import latest_checkpoint, read_run_config

__all__ = ["finished", "part_of", "peak_memory", "train"]

MEASURED = "measured.json"
"""File beside a run's own that holds what only its parent process knows."""


def finished(folder: Path, settings: list[str]) -> bool:
    """Tell whether a run has ended, with these very settings (preset and `KEY=VALUE`).

    Raises:
        ValueError: it was made with others.
    """
    if not (folder / "config.yaml").exists():
        return False
    wanted = load_config(settings[0], settings[1:])
    if read_run_config(folder) != wanted:
        raise ValueError(f"{folder} was trained with other settings; choose another --runs, or remove it")
    checkpoint = latest_checkpoint(folder)
    return checkpoint is not None and checkpoint.name == f"step-{wanted.train.steps:08d}"


def train(folder: Path, settings: list[str]) -> int:
    """Train a run, or go on with it, in a process of its own; return that one's exit code."""
    words = [sys.executable, "-m", "lab2pix", "train", *settings, "--out", str(folder)]
    if (folder / "config.yaml").exists():
        words.append("--resume")
    process = subprocess.Popen(words)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    # The training answers a signal with a checkpoint, for which it needs some time.
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    process.returncode = os.waitstatus_to_exitcode(status)
    if folder.is_dir():
        peak = max(peak_memory(folder) or 0.0, usage.ru_maxrss / 1024)
        (folder / MEASURED).write_text(json.dumps({"peak_mib": peak}) + "\n", encoding="utf-8")
    return process.returncode


def peak_memory(folder: Path) -> float | None:
    """Return the most memory that a run's process held, in MiB; None where nobody measured it."""
    file = folder / MEASURED
    return float(json.loads(file.read_text(encoding="utf-8"))["peak_mib"]) if file.exists() else None


def part_of(text: str) -> tuple[int, int]:
    """Read `1/2`: the first of two parts."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is no part such as 1/2")
    return int(part), int(parts)
