"""Samples in tar shards, read by byte ranges."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from lab2pix.data.storage import read_range
from lab2pix.errors import DataError

_GAP = 2
"""Members are read together if the range from the first to the last is at most this many times their own size."""


class TarMember(io.BytesIO):
    """Content of a file in a tar shard; `name` is the shard's path or URL and the file's name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class TarSample:
    """Files of one sample in a tar shard, which are read when they are opened.

    Files are adjacent in a shard. Who opens a photo opens the label map next, so the photo's request brings all files;
    they are kept as long as this object.

    Args:
        shard: path or URL of the tar file.
        members: name, offset and size in bytes of each file, by part of the sample.
    """

    def __init__(self, shard: str, members: Mapping[str, tuple[str, int, int]]) -> None:
        self.shard, self.members = shard, members
        self._start, self._content = 0, b""

    def open(self, part: str) -> TarMember:
        """Return the file of a part: `label`, `image` or `instance`.

        Raises:
            DataError: the shard cannot be read, or has another file there than its index says.
        """
        name, offset, size = self.members[part]
        where = f"{self.shard}/{name}"
        header, stop = offset - tarfile.BLOCKSIZE, offset + size
        if not self._start <= header < stop <= self._start + len(self._content):
            self._start, end = self._range(part)
            self._content = read_range(self.shard, self._start, end)
        content = self._content[header - self._start : stop - self._start]
        _check_header(content[: tarfile.BLOCKSIZE], name, size, self.shard)
        return TarMember(content[tarfile.BLOCKSIZE :], where)

    def _range(self, part: str) -> tuple[int, int]:
        """Return the bytes to read for a part, with the header in front of each file."""
        ranges = {key: (at - tarfile.BLOCKSIZE, at + size) for key, (_, at, size) in self.members.items()}
        first, last = min(ranges.values())[0], max(ranges.values())[1]
        if part == "image" and last - first <= _GAP * sum(stop - start for start, stop in set(ranges.values())):
            return first, last
        return ranges[part]


def _check_header(block: bytes, name: str, size: int, shard: str) -> None:
    """Check that the header in front of a file is the one of its name and size.

    Raises:
        DataError: it is not.
    """
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        fits = header.size == size and (not name.isascii() or name.startswith(header.name))  # long names are cut there
    except tarfile.HeaderError:
        fits = False
    if not fits:
        raise DataError(f"{shard} does not hold {name} where its index says; repeat `lab2pix data index` on its folder")
