"""The run's log: what was written down at which step, in lines that survive a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab2pix.utils.files import write_atomically

__all__ = ["RunLog", "read_log", "read_scores"]


class RunLog:
    """The run's `log.jsonl`: one JSON object per line, each with its step.

    Args:
        file: where it lies.
        step: the step that the run stands at; lines beyond it, of steps that will be made again, are cut off.
    """

    def __init__(self, file: Path, step: int) -> None:
        if file.exists():
            kept = [
                line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if _is_until(line, step)
            ]
            write_atomically(file, "".join(kept))
        self._file = file.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is out of this process' hands at once."""
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Force the lines to the disk, before a checkpoint says that they are there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):  # half a line, from when the process was killed
        return False


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log that `RunLog` keeps."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_scores(file: Path) -> dict[str, dict[int, float]]:
    """Return each score's values by step: the evaluator's first, then the method's own and those of validators."""
    found: dict[str, dict[str, dict[int, float]]] = {"evaluation": {}, "scores": {}}
    for line in read_log(file):
        for kind, scores in found.items():
            for name, value in line.get(kind, {}).items():
                scores.setdefault(name, {})[line["step"]] = value
    return {**found["evaluation"], **found["scores"]}
