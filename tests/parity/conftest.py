"""A vector file that may be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of the module's vector file, `original`."""
    for file in (original, original.with_suffix(".json")):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / original.name
