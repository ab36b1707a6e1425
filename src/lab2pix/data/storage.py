"""Files by path or URL, through fsspec: listings, whole files and byte ranges, with a limited number of retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec

from lab2pix.errors import ConfigError, DataError, Lab2PixError, OutputError
from lab2pix.utils.extras import install_command
from lab2pix.utils.text import reason_of

Result = TypeVar("Result")

_ATTEMPTS = 4
_PAUSE = 0.5  # seconds before the second attempt; it doubles before each further one
_VERSIONS = ("ETag", "etag", "mtime")
"""Keys under which file systems report a value that changes with the content."""


def is_url(root: str) -> bool:
    """Return whether a root is a URL, such as `s3://bucket/folder`, instead of a path."""
    return "://" in root


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and version of a file; the version changes with the content, and is empty if unknown."""

    size: int
    version: str


def list_files_below(root: str) -> dict[str, StoredFile]:
    """List the files in a folder and its sub-folders, by relative path (separated by slashes), sorted.

    Folders further down are left out.

    Raises:
        ConfigError: the library for the URL is not installed.
        DataError: the folder cannot be reached.
    """

    def look() -> dict[str, dict[str, Any]]:
        files, path = _file_system(root)
        files.invalidate_cache()
        found = files.find(path, maxdepth=2, detail=True)
        return {name.removeprefix(path.rstrip("/") + "/"): about for name, about in found.items()}

    return {name: _stored(about) for name, about in sorted(_retry(root, look).items())}


def read_range(file: str, start: int, stop: int) -> bytes:
    """Read the bytes from `start` to `stop` of a file, by one request.

    Each call is complete in itself, so that it works in threads and in forked or spawned processes; a thread has one
    request at a time.

    Raises:
        ConfigError: the library for the URL is not installed.
        DataError: the file cannot be read, also after several attempts, or ends before `stop`.
    """

    def read() -> bytes:
        files, path = _file_system(file)
        content = bytes(files.cat_file(path, start=start, end=stop))
        if len(content) != stop - start:
            raise EOFError(f"it ends after {start + len(content)} bytes, not {stop}")
        return content

    return _retry(file, read)


def read_files(root: str, names: Sequence[str]) -> list[bytes]:
    """Read whole files below a folder; an object store is asked for several at once.

    Raises:
        ConfigError: the library for the URL is not installed.
        DataError: a file cannot be read, also after several attempts.
    """

    def read() -> list[bytes]:
        files, folder = _file_system(root)
        paths = [f"{folder.rstrip('/')}/{name}" for name in names]
        contents: list[bytes | Exception] = files.cat_ranges(paths, None, None)
        if error := next((content for content in contents if isinstance(content, Exception)), None):
            raise error
        return [content for content in contents if isinstance(content, bytes)]

    return _retry(root, read)


def read_stream(file: str, work: Callable[[Any], Result]) -> Result:
    """Call a function with the opened file, and again if reading fails.

    Raises:
        ConfigError: the library for the URL is not installed.
        DataError: the file cannot be read, also after several attempts.
    """

    def read() -> Result:
        files, path = _file_system(file)
        with files.open(path, "rb", block_size=2**23) as opened:
            return work(opened)

    return _retry(file, read)


def write_file(file: str, content: bytes) -> None:
    """Write a file, which is replaced if there is one.

    Raises:
        ConfigError: the library for the URL is not installed.
        OutputError: it cannot be written.
    """
    files, path = _file_system(file)
    try:
        files.pipe_file(path, content)
    except Exception as error:  # each file system has errors of its own
        raise OutputError(f"cannot write {file} ({reason_of(error)}); check the rights of writing there") from error


def _file_system(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URL, which fsspec keeps by process and thread, and the path in it."""
    try:
        files, path = fsspec.url_to_fs(root)
    except ImportError as error:
        scheme = root.partition("://")[0]
        extra = install_command("cloud") if scheme == "s3" else f"pip install the library that fsspec names: {error}"
        raise ConfigError(f"{root} needs a library for {scheme}:// that is not installed; {extra}") from error
    except ValueError as error:
        raise DataError(
            f"{root} cannot be opened ({reason_of(error)}); give a path or a URL such as s3://..."
        ) from error
    return files, path


def _retry(what: str, action: Callable[[], Result]) -> Result:
    """Call a function up to `_ATTEMPTS` times."""
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except Lab2PixError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{what} is missing; put it back, or correct data.root") from error
        except PermissionError as error:
            raise DataError(f"{what} cannot be read ({reason_of(error)}); check rights and credentials") from error
        except Exception as error:  # each file system has errors of its own
            if attempt == _ATTEMPTS - 1:
                raise DataError(
                    f"{what} cannot be read after {_ATTEMPTS} attempts ({reason_of(error)}); check the file and the "
                    "connection to it"
                ) from error
        time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _stored(about: dict[str, Any]) -> StoredFile:
    key = next((key for key in _VERSIONS if about.get(key)), None)
    return StoredFile(int(about["size"]), "" if key is None else f"{key}={about[key]}")
