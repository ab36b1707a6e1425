"""Paths of the user, atomic file writes, locks, and printable text for file names that are not valid UTF-8.

File systems differ: some (CIFS, FUSE) cannot flush folders or lock files, which is passed over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lab2pix.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

UNFINISHED = ".tmp-"
"""Name prefix of temporary files and folders."""

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})
"""Errors of a file system that lacks an ability, in contrast to one that fails."""


def expand_user(path: str | Path) -> Path:
    """Return a path that a user gave, with `~` and `~name` replaced by the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - leaves `~name` of an unknown user as it is


def flush_to_disk(descriptor: int) -> None:
    """Flush an open file or folder to the disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def lock_file(file: IO[Any], lock: Callable[[IO[Any], int], None]) -> bool:
    """Lock an open file exclusively until it is closed, where the file system and the operating system can.

    Args:
        file: the file.
        lock: `fcntl.flock`, or `fcntl.lockf` for a lock that child processes do not inherit.

    Returns:
        False if another process holds the lock.
    """
    import fcntl

    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
    return True


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the file system can."""
    if os.name == "nt":  # Windows cannot open folders, and flushes their entries itself
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in (*_UNSUPPORTED, errno.EISDIR, errno.EACCES):
            return
        raise
    try:
        flush_to_disk(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk, where the file system can."""
    with path.open("rb+") as file:
        flush_to_disk(file.fileno())


def unfinished_path(path: Path) -> Path:
    """Return the temporary path under which a file is written; its name is short, whatever the length of the file's."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f"{UNFINISHED}{digest}{path.suffix[:16]}")


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
    unfinished = tuple(map(unfinished_path, files))
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


def claim_folder(folder: Path, file: str, settings: Mapping[str, Any], made: str) -> bool:
    """Create a folder for files that settings determine, or compare the settings with those of an earlier call.

    The caller writes the settings, as JSON, to `folder / file`, which marks the folder.

    Args:
        folder: new or empty, or with the same settings.
        file: name of the settings file.
        settings: JSON-serializable values.
        made: what happened to the folder with other settings, such as `labeled`.

    Returns:
        Whether the folder is new.

    Raises:
        OutputError: it holds other files, or was made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / file).exists():
        before: dict[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
        changed = [key for key, value in settings.items() if json.loads(json.dumps(value)) != before.get(key)]
        if changed:
            raise OutputError(f"{folder} was {made} with another '{changed[0]}'; choose another folder, or remove it")
        return False
    if any(folder.iterdir()):
        raise OutputError(f"{folder} holds other files; choose an empty folder")
    return True


def read_json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file, none if it is missing; a line that a crash cut off is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def write_png(path: Path, image: Image) -> None:
    """Write a Pillow image as PNG atomically, without flushing it to the disk."""
    with atomic_write(path, sync=False) as [unfinished]:
        image.save(unfinished, format="PNG")


def escape_surrogates(text: object) -> str:
    """Escape surrogates, so that text with a file name that is not valid UTF-8 can be printed and stored."""
    return str(text).encode("utf-8", "backslashreplace").decode()
