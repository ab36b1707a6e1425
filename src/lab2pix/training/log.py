"""Training log in JSON Lines format, robust to a killed process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab2pix.utils.files import flush_to_disk, write_atomically


class RunLog:
    """Writer of `log.jsonl`, with one JSON object per line that has a `step`.

    Lines of later steps than the current one are removed, as these steps are repeated.
    """

    def __init__(self, file: Path, step: int) -> None:
        if file.exists():
            kept = [
                line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if _is_until(line, step)
            ]
            write_atomically(file, "".join(kept))
        self._file = file.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line and flush it."""
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Sync the file to disk; called before a checkpoint is written."""
        flush_to_disk(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):  # an incomplete line of a killed process
        return False


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_scores(file: Path) -> dict[str, dict[int, float]]:
    """Return each score's values by step: evaluation scores first, then those of the method and validators."""
    found: dict[str, dict[str, dict[int, float]]] = {"evaluation": {}, "scores": {}}
    for line in read_log(file):
        for kind, scores in found.items():
            for name, value in line.get(kind, {}).items():
                scores.setdefault(name, {})[line["step"]] = value
    return {**found["evaluation"], **found["scores"]}
