"""Files of a download, in folders and archives (zip, tar) alike, read without unpacking."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from lab2pix.data.files import list_files
from lab2pix.errors import DataError

_ZIP = (".zip",)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
"""What damaged, incomplete and encrypted archives raise."""


class _Container(Protocol):
    """A folder or an archive."""

    def read(self, key: Any) -> bytes:
        """Return the content of a file."""


@dataclass(frozen=True)
class Member:
    """File of a download.

    Attributes:
        path: path with slashes: name of the source, name of the archive if any, and path inside.
        size: length in bytes.
        order: position; reading in this order reads each archive once, from start to end.
        container: the folder or archive.
        key: what finds the file there.
    """

    path: str
    size: int
    order: int
    container: _Container
    key: Any

    def read(self) -> bytes:
        """Return the content.

        Raises:
            DataError: the archive is damaged.
        """
        with _errors_named(self.path):
            return self.container.read(self.key)

    @property
    def stem(self) -> str:
        """Name of the file without suffix."""
        return self.path.rpartition("/")[2].rpartition(".")[0]


@dataclass(frozen=True)
class Listing:
    """All files of a download.

    Attributes:
        source: the folder or archive.
        members: its files, archives opened, in reading order.
    """

    source: Path
    members: list[Member]

    def find(self, pattern: str) -> Iterator[tuple[re.Match[str], Member]]:
        """Yield the files whose path ends in a pattern, which starts at the name of a folder or file."""
        ending = re.compile(rf"(?:^|/){pattern}$")
        for member in self.members:
            if match := ending.search(member.path):
                yield match, member

    def require(self, found: object, what: str, download: str) -> None:
        """Check that a part of the dataset was found.

        Args:
            found: what was found; false: nothing.
            what: the part.
            download: the file to download.

        Raises:
            DataError: nothing was found.
        """
        if not found:
            raise DataError(f"{self.source} has no {what}; download {download} and put it there, unpacked or not")


@contextmanager
def list_source(source: Path, leave_out: Path) -> Iterator[Listing]:
    """List the files of an archive, or of a folder with the archives in it; archives stay open in the context.

    Hidden files and links in archives are left out.

    Args:
        source: the archive or folder.
        leave_out: folder whose files are not listed.

    Raises:
        DataError: the source does not exist, is not an archive, is damaged, or has a path outside itself.
    """
    if not source.exists():
        raise DataError(f"There is no file or folder {source}; give the download, or the folder that holds it")
    with ExitStack() as stack:
        members: list[Member] = []
        root = source.resolve()
        files = list(list_files(source)) if source.is_dir() else [""]
        skipped = leave_out.resolve()
        prefix = f"{skipped.relative_to(root).as_posix()}/" if skipped.is_relative_to(root) else None
        for name in files:
            if prefix is not None and name.startswith(prefix):
                continue
            path = source / name if name else source
            shown = "/".join(part for part in (root.name, name) if part)
            if name and not path.name.lower().endswith(_ZIP + _TAR):
                members.append(Member(shown, path.stat().st_size, len(members), _FOLDER, path))
                continue
            for inner, size, container, key in _open_archive(path, stack):
                members.append(Member(f"{shown}/{inner}", size, len(members), container, key))
        yield Listing(source, members)


def _open_archive(path: Path, stack: ExitStack) -> Iterator[tuple[str, int, _Container, Any]]:
    """Yield path, size, container and key of each file in an archive."""
    entries: list[tuple[str, int, Any]]
    container: _Container
    with _errors_named(str(path)):
        if path.name.lower().endswith(_ZIP):
            opened = stack.enter_context(zipfile.ZipFile(path))
            container = _Zip(opened)
            entries = [(info.filename, info.file_size, info) for info in opened.infolist() if not info.is_dir()]
        elif path.name.lower().endswith(_TAR):
            tar = stack.enter_context(tarfile.open(path))  # noqa: SIM115
            container = _Tar(tar)
            entries = [(info.name, info.size, info) for info in tar if info.isreg()]
        else:
            raise DataError(f"{path} is not an archive; give a folder, or a file that ends in {', '.join(_ZIP + _TAR)}")
    for name, size, key in entries:
        inner = name.replace("\\", "/").removeprefix("./")
        parts = inner.split("/")
        if inner.startswith("/") or ".." in parts or ":" in parts[0]:
            raise DataError(f"{path} holds '{name}', a path outside of the archive; download it from a trusted site")
        if not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield inner, size, container, key


@contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Name the archive or file that cannot be read."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # no permission, a broken disk
            raise
        why = str(error).partition(":\n")[0] or type(error).__name__
        raise DataError(f"cannot read {path} ({why}); download it again") from error


class _Folder:
    def read(self, key: Path) -> bytes:
        return key.read_bytes()


class _Zip:
    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._opened = opened

    def read(self, key: zipfile.ZipInfo) -> bytes:
        return self._opened.read(key)


class _Tar:
    def __init__(self, opened: tarfile.TarFile) -> None:
        self._opened = opened
        self._lock = Lock()  # one position in the file for all threads

    def read(self, key: tarfile.TarInfo) -> bytes:
        with self._lock:
            file = self._opened.extractfile(key)
            return b"" if file is None else file.read()


_FOLDER = _Folder()
