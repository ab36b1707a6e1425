"""A vector file that may be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.vectors import copied


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of the module's vector file, `original`."""
    return copied(original, tmp_path)
