"""Statistics of a set of pictures in a file, so that a real set needs to be looked at once only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.metrics.distribution import FeatureMoments

__all__ = ["STATISTICS_FORMAT", "check_statistics", "load_statistics", "save_statistics"]

STATISTICS_FORMAT = "lab2pix-statistics/1"


def save_statistics(file: Path, moments: FeatureMoments, meta: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write statistics, in full or not at all.

    Args:
        file: where to; its folder is made where it is missing.
        moments: what was seen.
        meta: how it came about: what JSON can hold.
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    if file.exists() and not overwrite:
        raise OutputError(f"{file} is there already; choose another name for the statistics, or remove it")
    header = {"format": STATISTICS_FORMAT, "meta": json.dumps(dict(meta), sort_keys=True)}
    unfinished = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(save(moments.state(), header))
        unfinished.replace(file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"cannot write {file} ({error.strerror or error}); choose another place") from error


def load_statistics(file: Path) -> tuple[FeatureMoments, dict[str, Any]]:
    """Read statistics, and how they came about.

    Raises:
        DataError: the file holds none.
    """
    try:
        with safe_open(file, "pt") as content:
            header = content.metadata() or {}
            if header.get("format") != STATISTICS_FORMAT:
                raise DataError(f"{file} holds no statistics of pictures; give a file of --save-stats")
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        return FeatureMoments.from_state(state), dict(json.loads(header["meta"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{file} cannot be read as statistics of pictures ({reason}); give a folder, or a file of --save-stats"
        ) from error


def check_statistics(meta: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    """Check that statistics were taken as the other set's will be.

    Args:
        meta: what the file says.
        wanted: what must be alike; keys that it lacks do not matter.
        file: for the error.

    Raises:
        DataError: something differs, which is named.
    """
    for key, value in wanted.items():
        if meta.get(key) != value:
            raise DataError(
                f"the statistics in {file} were taken with {key} {_short(meta.get(key))}, but this evaluation has "
                f"{_short(value)}; take them anew with --save-stats, or evaluate in the same way"
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
