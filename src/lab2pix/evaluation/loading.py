"""Reading of images, photos and label maps: ahead of the evaluation, in batches of one size."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab2pix.config.schema import Alpha
from lab2pix.data.files import to_photo
from lab2pix.data.image_file import is_transparent, open_image, transparency_notes
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image
from lab2pix.errors import DataError, LabelError
from lab2pix.evaluation.pairing import Item
from lab2pix.labels.space import LabelSpace

_READERS = 4


@dataclass
class ReadingLog:
    """Record of the files that were read.

    Attributes:
        resized: number of `generated` and `real` images, and `labels`, that were resized.
        sizes: number of images at each height and width.
        transparent: number of files with transparent pixels, and an example, by what the files are.
        broken: samples that were left out because a file cannot be read: `name`, `of` ("label maps", or "photos" for
            unpaired ones), `file` and `reason`.
    """

    resized: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    transparent: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return remarks on files with transparent pixels."""
        return list(transparency_notes(self.transparent, "compared", "--alpha"))

    def merge(self, other: ReadingLog) -> None:
        """Add the record of another process."""
        self.resized += other.resized
        self.sizes += other.sizes
        for role, (count, example) in other.transparent.items():
            self.count_transparent(role, example, count)
        self.broken += other.broken

    def count_transparent(self, role: str, example: str, count: int = 1) -> None:
        """Count files with transparent pixels."""
        before, first = self.transparent.get(role, (0, example))
        self.transparent[role] = (before + count, first)


@dataclass(frozen=True)
class Loaded:
    """A batch of images of one size.

    Attributes:
        names: names of the label maps.
        samples: images `[N, 3, H, W]` uint8 of each sample set.
        real: `[N, 3, H, W]` uint8, or None.
        label: `[N, H, W]` canonical ids, or `label_size` of `read_items`, or None.
    """

    names: list[str]
    samples: list[Tensor]
    real: Tensor | None
    label: Tensor | None


@dataclass(frozen=True)
class _One:
    name: str
    samples: list[Tensor]
    real: Tensor | None
    label: Tensor | None
    resized: Counter[str]
    transparent: list[tuple[str, Path]]


class _BrokenError(Exception):
    """A file that cannot be read, with the name of its sample and the original error."""

    def __init__(self, name: str, file: Path, error: DataError | LabelError) -> None:
        super().__init__(str(error))
        self.name = name
        self.file = file
        self.error = error


def read_items(
    items: Sequence[Item],
    space: LabelSpace | None,
    log: ReadingLog,
    *,
    size: tuple[int, int] | None,
    batch_size: int,
    skip_broken: bool,
    alpha: Alpha = "drop",
    label_size: tuple[int, int] | None = None,
) -> Iterator[Loaded]:
    """Yield images with their photos and label maps, in order.

    Photos are resized to the size of their image (antialiased bicubic), label maps by nearest neighbor.

    Args:
        items: the files.
        space: label space of the label maps; None leaves them out.
        log: records sizes, resizing and broken files.
        size: height and width to which all are resized; None: each image's own.
        batch_size: largest number of label maps per batch.
        skip_broken: leave out samples of which a file cannot be read.
        alpha: what becomes of the transparency of images and photos.
        label_size: height and width of the label maps; None: those of their image.

    Raises:
        DataError, LabelError: a file cannot be read.
    """

    def load(item: Item) -> _One:
        return _load(item, space, size, alpha, label_size)

    for part in _batches(_ahead(load, items, "label maps", log, batch_size, skip_broken), batch_size, log):
        log.sizes[(part[0].samples[0].shape[-2], part[0].samples[0].shape[-1])] += len(part)
        yield _join(part)


def read_photos(
    photos: dict[str, Pair],
    log: ReadingLog,
    *,
    size: tuple[int, int] | None,
    batch_size: int,
    skip_broken: bool,
    alpha: Alpha = "drop",
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield unpaired photos: names and `[N, 3, H, W]` uint8."""

    def load(entry: tuple[str, Pair]) -> _One:
        name, pair = entry
        transparent: list[tuple[str, Path]] = []
        image = _guard(name, pair.image or pair.label, lambda: _read_photo(pair, alpha, transparent))
        resized: Counter[str] = Counter()
        image = _resized(image, size, "real", resized)
        return _One(name, [image], None, None, resized, transparent)

    for part in _batches(_ahead(load, list(photos.items()), "photos", log, batch_size, skip_broken), batch_size, log):
        yield [one.name for one in part], torch.stack([one.samples[0] for one in part])


def _batches(ones: Iterable[_One], batch_size: int, log: ReadingLog) -> Iterator[list[_One]]:
    """Yield up to `batch_size` consecutive samples of one size."""
    waiting: list[_One] = []
    for one in ones:
        if waiting and (len(waiting) == batch_size or waiting[0].samples[0].shape != one.samples[0].shape):
            yield waiting
            waiting = []
        waiting.append(one)
        log.resized += one.resized
        for role, file in one.transparent:
            log.count_transparent(role, str(file))
    if waiting:
        yield waiting


def _ahead(
    load: Any, entries: Sequence[Any], what: str, log: ReadingLog, batch_size: int, skip_broken: bool
) -> Iterator[_One]:
    """Yield loaded entries in order; threads read ahead by one batch."""
    most = max(_READERS, batch_size)
    with ThreadPoolExecutor(_READERS) as pool:
        coming: deque[Future[_One]] = deque()
        rest = iter(entries)
        try:
            while True:
                while len(coming) < most and (entry := next(rest, None)) is not None:
                    coming.append(pool.submit(load, entry))
                if not coming:
                    return
                try:
                    yield coming.popleft().result()
                except _BrokenError as broken:
                    if not skip_broken:
                        raise _with_hint(broken) from broken.error
                    about = {"of": what, "name": broken.name, "file": str(broken.file), "reason": str(broken.error)}
                    log.broken.append(about)
        finally:
            for future in coming:
                future.cancel()


def _with_hint(broken: _BrokenError) -> DataError | LabelError:
    text = str(broken.error)
    where = "" if str(broken.file) in text else f"{broken.file}: "
    return type(broken.error)(f"{where}{text} (--skip-broken goes on without such files)")


def _guard(name: str, file: Path, read: Any) -> Any:
    try:
        return read()
    except (DataError, LabelError) as error:
        raise _BrokenError(name, file, error) from error


def _resized(image: Tensor, size: tuple[int, int] | None, what: str, count: Counter[str]) -> Tensor:
    if size is None or tuple(image.shape[-2:]) == size:
        return image
    count[what] += 1
    return resize_image(image, size)


def _read_image(path: Path, alpha: Alpha, role: str, transparent: list[tuple[str, Path]]) -> Tensor:
    """Read an image, and note it if its hidden colors show."""
    file = open_image(path)
    if alpha == "drop" and is_transparent(file.image):
        transparent.append((role, path))
    return to_photo(file, path, alpha)


def _read_photo(pair: Pair, alpha: Alpha, transparent: list[tuple[str, Path]]) -> Tensor:
    if pair.image is None:
        return pair.read_image(alpha)
    photo, where = pair.photo_part(open_image(pair.source("image")))
    if alpha == "drop" and is_transparent(photo.image):
        transparent.append(("photos", pair.image))
    return to_photo(photo, where, alpha)


def _read_label(pair: Pair, space: LabelSpace, transparent: list[tuple[str, Path]]) -> Tensor:
    file = open_image(pair.source("label"))
    if pair.form != "sketch-left" and is_transparent(pair.label_part(file)[0].image):
        transparent.append(("label maps", pair.label))
    return pair.decode_label(space, file=file).ids


def _load(
    item: Item,
    space: LabelSpace | None,
    size: tuple[int, int] | None,
    alpha: Alpha,
    label_size: tuple[int, int] | None,
) -> _One:
    resized: Counter[str] = Counter()
    transparent: list[tuple[str, Path]] = []
    samples = []
    for file in item.generated:
        # All samples of a label map have the first one's size.
        image = _guard(item.name, file, partial(_read_image, file, alpha, "generated images", transparent))
        samples.append(_resized(image, size, "generated", resized))
        size = size or (samples[0].shape[-2], samples[0].shape[-1])
    real = label = None
    if item.real is not None:
        pair = item.real
        photo = _guard(item.name, pair.image or pair.label, lambda: _read_photo(pair, alpha, transparent))
        real = _resized(photo, size, "real", resized)
    if item.label is not None and space is not None:
        other = item.label
        ids = _guard(item.name, other.label, lambda: _read_label(other, space, transparent))
        here = label_size or (samples[0].shape[-2], samples[0].shape[-1])
        resized["labels"] += tuple(ids.shape) != here
        label = resize_label(ids, here, space)
    return _One(item.name, samples, real, label, resized, transparent)


def _join(parts: Sequence[_One]) -> Loaded:
    reals = [part.real for part in parts if part.real is not None]
    labels = [part.label for part in parts if part.label is not None]
    return Loaded(
        names=[part.name for part in parts],
        samples=[torch.stack(images) for images in zip(*(part.samples for part in parts), strict=True)],
        real=torch.stack(reals) if reals else None,
        label=torch.stack(labels) if labels else None,
    )
