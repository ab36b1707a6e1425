"""Atomic writes, and text that can be printed whatever a file is called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["UNFINISHED", "atomic_write", "escape_surrogates", "sync_file", "sync_folder", "write_atomically"]


UNFINISHED = ".tmp-"
"""Prefix of names of files and folders that are being written."""


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk."""
    if os.name == "nt":  # Windows cannot open folders, and flushes their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_write(*files: Path, sync: bool = True) -> Iterator[tuple[Path, ...]]:
    """Write files of one folder atomically: each is complete or as it was before.

    Yields a temporary path for each file. They are moved to their final names, in this order, once all are written; on
    an error they are deleted. The folder is created where it is missing.

    Args:
        files: final paths, all in one folder.
        sync: flush to the disk, so that the files survive a power failure.
    """
    folder = files[0].parent
    unfinished = tuple(folder / f"{UNFINISHED}{file.name}" for file in files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if sync:
            for temporary in unfinished:
                sync_file(temporary)
        for temporary, file in zip(unfinished, files, strict=True):
            temporary.replace(file)
        if sync:
            sync_folder(folder)
    except BaseException:
        for temporary in unfinished:
            with suppress(OSError):
                temporary.unlink()
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as [unfinished]:
        unfinished.write_text(text, encoding="utf-8")


def escape_surrogates(text: object) -> str:
    """Return text that can be printed and stored, where it contains a file name that is not valid UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode()
