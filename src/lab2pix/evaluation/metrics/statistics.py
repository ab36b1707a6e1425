"""Files of feature statistics, so that a set of photos is read only once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.metrics.distribution import FeatureMoments
from lab2pix.utils.files import atomic_write, output_errors
from lab2pix.utils.text import reason_of

STATISTICS_FORMAT = "lab2pix-statistics/1"


def save_statistics(file: Path, moments: FeatureMoments, meta: Mapping[str, Any]) -> None:
    """Write statistics atomically.

    `meta` describes how they were computed, as JSON values.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    if file.exists():
        raise OutputError(f"{file} is there already; choose another name for the statistics, or remove it")
    header = {"format": STATISTICS_FORMAT, "meta": json.dumps(dict(meta), sort_keys=True)}
    with output_errors(file, "choose another place"), atomic_write(file) as [unfinished]:
        unfinished.write_bytes(save(moments.state(), header))


def load_statistics(file: Path) -> tuple[FeatureMoments, dict[str, Any]]:
    """Read statistics and their description.

    Raises:
        DataError: the file is not a file of statistics.
    """
    try:
        with safe_open(file, "pt") as content:
            header = content.metadata() or {}
            if header.get("format") != STATISTICS_FORMAT:
                raise DataError(f"{file} does not hold statistics; give a file of --save-stats")
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        return FeatureMoments.from_state(state), dict(json.loads(header["meta"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as statistics ({reason_of(error)}); give a folder, or a file of --save-stats"
        ) from error


def check_statistics(meta: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    """Check that statistics were computed in the same way as those of this evaluation.

    Raises:
        DataError: an entry differs.
    """
    for key, value in wanted.items():
        if meta.get(key) != value:
            raise DataError(
                f"the statistics in {file} were computed with {key} {_short(meta.get(key))}, but this evaluation has "
                f"{_short(value)}; compute them again with --save-stats, or evaluate in the same way"
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
