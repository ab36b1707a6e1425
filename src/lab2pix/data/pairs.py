"""File paths of a sample, and a compact sequence of them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast, overload

from torch import Tensor

from lab2pix.config.schema import Alpha
from lab2pix.data.files import to_photo
from lab2pix.data.image_errors import Source
from lab2pix.data.image_file import ImageFile, open_image
from lab2pix.data.label_maps import decode_instances, decode_label, read_tones
from lab2pix.data.line_drawings import JPEG_BLEED, Lines, find_lines
from lab2pix.data.source_images import read_source
from lab2pix.data.storage import is_url
from lab2pix.data.tar_samples import TarSample
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.decoding import LabelMap
from lab2pix.labels.space import LabelSpace

Part = Literal["label", "image", "instance"]
"""File of a sample."""

PairStorage = Literal["files", "photo-left", "sketch-left", "input-left"]
"""File layout of a pair: separate files, or one AB file with the photo, a sketch or another input at the left."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of one sample.

    Attributes:
        name: name, unique within the split; parts are separated by slashes.
        label: file of the label map, or of the photo if only photos are listed.
        image: file of the photo (the same for AB files); None if only label maps are listed.
        instance: file of the instance map, if any.
        form: whether label map and photo are separate files or halves of one.
        shard: the files in a tar shard, whose paths are then names for messages; None: they are files of a disk.
    """

    name: str
    label: Path
    image: Path | None = None
    instance: Path | None = None
    form: PairStorage = "files"
    shard: TarSample | None = field(default=None, compare=False, repr=False)

    def source(self, part: Part) -> Source:
        """Return the file of a part, which must exist: its path, or its content in a tar shard.

        Raises:
            DataError: the shard cannot be read.
        """
        path = {"label": self.label, "image": self.image, "instance": self.instance}[part]
        assert path is not None
        return path if self.shard is None else self.shard.open(part)

    def read_label(self, label_space: LabelSpace, lines: Lines = "auto") -> Tensor:
        """Read the label map: `[H, W]` int64 canonical ids; see `decode_label`."""
        return self.decode_label(label_space, lines).ids

    @property
    def photo_only(self) -> bool:
        """Whether only the photo is listed."""
        return self.image == self.label and self.form == "files"

    def decode_label(self, label_space: LabelSpace, lines: Lines = "auto", file: ImageFile | None = None) -> LabelMap:
        """Read the label map with a note of how it was read.

        Args:
            label_space: its classes.
            lines: which pixels of a line drawing are lines.
            file: the opened file; None: it is opened.

        Raises:
            DataError: the file cannot be read.
            LabelError: it has ids or colors outside the label space.
        """
        part, where = self.label_part(file or open_image(self.source("label")))
        if self.form == "sketch-left":
            _check_two_classes(label_space)
            return LabelMap(find_lines(read_tones(part, lines), lines, where, seam=JPEG_BLEED), "lines", {})
        return decode_label(part, label_space, where, lines=lines)

    def label_part(self, file: ImageFile) -> tuple[ImageFile, str]:
        """Return the part of the opened file that is the label map or input, and its name for messages.

        Raises:
            DataError: an AB file has an odd width.
        """
        return self._part(file, self.label, right=self.form == "photo-left")

    def photo_part(self, file: ImageFile) -> tuple[ImageFile, str]:
        """Return the part of the opened file that is the photo, and its name for messages; see `label_part`."""
        assert self.image is not None
        return self._part(file, self.image, right=self.form != "photo-left")

    def _part(self, file: ImageFile, path: Path, *, right: bool) -> tuple[ImageFile, str]:
        if self.form == "files":
            return file, str(path)
        width, whole = _half_width(file.image.width, path), file.image.width
        half = file.crop(width, whole) if right else file.crop(0, width)
        return half, f"the {'right' if right else 'left'} half of {path}"

    def read_source(self, channels: int | None, value_range: tuple[float, float] | None) -> Tensor:
        """Read the source image `[C, H, W]` float32 that replaces the label map; see `source_images.read_source`.

        Raises:
            DataError: the file cannot be read, or its channels or values do not match.
        """
        image = read_source(self.source("label"), channels, value_range)
        return image if self.form == "files" else _half(image, self.label, right=self.form == "photo-left")

    def read_image(self, alpha: Alpha = "drop") -> Tensor:
        """Read the photo: `[3, H, W]` uint8 RGB.

        Args:
            alpha: what becomes of transparency.

        Raises:
            DataError: the file cannot be read, or the pair has no photo.
        """
        if self.image is None:
            raise DataError(f"{self.label} comes without a photo; give a dataset that has them")
        part, where = self.photo_part(open_image(self.source("image")))
        return to_photo(part, where, alpha)

    def read_instances(self) -> Tensor:
        """Read the instance map, which must exist: `[H, W]` int64; see `label_maps.read_instances`.

        Raises:
            DataError: the file cannot be read.
        """
        assert self.instance is not None
        return decode_instances(open_image(self.source("instance")), self.instance)


class Row(NamedTuple):
    """A `Pair` as strings; an empty string is None.

    Files in a tar shard are `SHARD.tar/NAME`, and `places` has `PART:OFFSET:SIZE` for each, separated by spaces.
    """

    name: str
    label: str
    image: str = ""
    instance: str = ""
    form: PairStorage = "files"
    places: str = ""


class PairList(Sequence[Pair]):
    """Immutable sequence of pairs packed into one byte array; `Pair` objects are created on access.

    120,000 Python objects would take five times the memory, and reference counting would defeat copy-on-write, so each
    worker process would end up with its own copy.

    Args:
        rows: the pairs.
        root: folder of the tar shards, by path or URL, that the files of pairs with `places` are relative to.
    """

    def __init__(self, rows: Iterable[Row] = (), root: str = "") -> None:
        self.root = root
        self._text = bytearray()
        self._ends = array("Q")
        for row in rows:
            # File names contain no NUL; "surrogatepass" preserves names that are not valid Unicode.
            self._text += "\0".join(row).encode("utf-8", "surrogatepass")
            self._ends.append(len(self._text))

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairList:
        """Pack pairs, unless they are packed already."""
        if isinstance(pairs, cls):
            return pairs
        return cls(Row(p.name, str(p.label), str(p.image or ""), str(p.instance or ""), p.form) for p in pairs)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> PairList: ...

    def __getitem__(self, index: int | slice) -> Pair | PairList:
        """Return a pair, or a slice as a `PairList`."""
        if isinstance(index, slice):
            return PairList((self.row(place) for place in range(*index.indices(len(self)))), self.root)
        row = self.row(range(len(self))[index])
        prefix = "" if not self.root or is_url(self.root) else f"{self.root}/"
        image, instance = (Path(prefix + file) if file else None for file in (row.image, row.instance))
        return Pair(row.name, Path(prefix + row.label), image, instance, row.form, _tar_sample(row, self.root))

    def row(self, place: int) -> Row:
        """Return a pair as strings, by its non-negative index."""
        text = self._text[self._ends[place - 1] if place else 0 : self._ends[place]]
        name, label, image, instance, form, places = text.decode("utf-8", "surrogatepass").split("\0")
        return Row(name, label, image, instance, cast(PairStorage, form), places)

    def rows(self) -> Iterator[Row]:
        """Yield all pairs as strings."""
        return map(self.row, range(len(self)))

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yield path, as in the rows, and size in bytes of each file, in order.

        Raises:
            OSError: a file is missing.
        """
        for row in self.rows():
            sizes = {part: size for part, _, size in _read_places(row)}
            for path, part in {row.label: "label", row.image: "image", row.instance: "instance"}.items():
                if path:
                    yield path, sizes[part] if sizes else os.stat(path).st_size  # noqa: PTH116 (speed on large sets)


def _read_places(row: Row) -> list[tuple[str, int, int]]:
    """Return part, offset and size in bytes of the files of a row in a tar shard."""
    places = (place.split(":") for place in row.places.split())
    return [(part, int(offset), int(size)) for part, offset, size in places]


def _tar_sample(row: Row, root: str) -> TarSample | None:
    """Return the files of a row in a tar shard; None if they are files of a disk."""
    if not row.places:
        return None
    shard, _, _ = row.label.partition(".tar/")
    names = {"label": row.label, "image": row.image, "instance": row.instance}
    return TarSample(
        f"{root}/{shard}.tar",
        {part: (names[part].removeprefix(f"{shard}.tar/"), offset, size) for part, offset, size in _read_places(row)},
    )


def _half_width(width: int, path: Path) -> int:
    """Return half of an AB file's width; an odd width is a `DataError`."""
    if width % 2:
        raise DataError(f"{path} is {width} pixels wide, an odd number, so it is not an A|B pair")
    return width // 2


def _half(image: Tensor, path: Path, *, right: bool) -> Tensor:
    """Return one half `[C, H, W / 2]` of an AB image `[C, H, W]`."""
    width = _half_width(image.shape[-1], path)
    return image[..., width:] if right else image[..., :width]


def _check_two_classes(label_space: LabelSpace) -> None:
    """Check that a label space has the two classes of line drawings."""
    if label_space.num_classes != 2:
        raise LabelError(
            f"Sketches have two classes, blank and line, but label space '{label_space.name}' has "
            f"{label_space.num_classes}; use label space 'sketch'"
        )
