"""Atomic writes, and text that can be printed whatever a file is called."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["UNFINISHED", "escape_surrogates", "sync_file", "sync_folder", "write_atomically"]


UNFINISHED = ".tmp-"
"""How names of files and folders begin while they are written."""


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk."""
    if os.name == "nt":  # Windows opens no folders, and keeps their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file that is afterwards there in full, or as it was before."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    sync_file(unfinished)
    unfinished.replace(path)
    sync_folder(path.parent)


def escape_surrogates(text: object) -> str:
    """Return a text that can be printed and kept, where it holds the name of a file that is no UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode()
