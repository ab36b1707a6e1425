"""Atomic file writes, and printable text for file names that are not valid UTF-8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab2pix.errors import OutputError

__all__ = [
    "UNFINISHED",
    "atomic_write",
    "escape_surrogates",
    "output_errors",
    "sync_file",
    "sync_folder",
    "write_atomically",
]


UNFINISHED = ".tmp-"
"""Name prefix of temporary files and folders."""


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
def output_errors(path: Path, advice: str) -> Iterator[None]:
    """Say in one sentence, with advice, which file or folder cannot be written.

    Raises:
        OutputError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}); {advice}") from error


@contextmanager
def atomic_write(*files: Path, sync: bool = True) -> Iterator[tuple[Path, ...]]:
    """Write files of one folder atomically: each is either complete or unchanged.

    Yields a temporary path per file. On success they are renamed in order; on an error they are deleted. A missing
    folder is created.

    Args:
        files: final paths, all in one folder.
        sync: fsync, so that the files survive a power failure.
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
    """Escape surrogates, so that text with a file name that is not valid UTF-8 can be printed and stored."""
    return str(text).encode("utf-8", "backslashreplace").decode()
