"""x"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_page(report: dict[str, Any], file: Path) -> None:
    """Write."""
    file.write_text("")
