"""Fingerprint of data and machine: what the rules look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from lab2pix.data.balance import present_classes
from lab2pix.data.datasets import check_sizes
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image, to_luma
from lab2pix.errors import DataError, LabelError
from lab2pix.fit.dataset import Dataset
from lab2pix.fit.rules import RARE_SHARE, SIDES
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.hardware import computes_bfloat16, free_memory
from lab2pix.utils.text import first_few, plural
from lab2pix.utils.threads import available_processors, map_in_threads

LEAST_PHOTOS = 20
"""Photos without which there is nothing to learn."""
ENOUGH_PHOTOS = 200
_MOST_READ = 2000
"""Files of each kind that are read; of more, every n-th."""
_THUMBNAIL = (8, 8)
_LEVELS = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DataFingerprint:
    """What is in a dataset.

    Attributes:
        train, held_out: label maps.
        photos: photos to train on.
        height, width: median size of the photos.
        shares: share of all pixels by class name, the largest first.
        presence: share of the label maps that have the class, by class name.
    """

    train: int
    held_out: int
    photos: int
    height: int
    width: int
    shares: dict[str, float]
    presence: dict[str, float]

    @property
    def rare(self) -> tuple[str, ...]:
        """Names of the classes that are in few of the label maps, the rarest first; not those that are in none."""
        found = [name for name, share in self.presence.items() if 0 < share < RARE_SHARE]
        return tuple(sorted(found, key=self.presence.__getitem__))

    def __str__(self) -> str:
        """Return one line per fact."""
        classes = [f"{name} {share:.1%}" for name, share in self.shares.items() if share]
        unknown = 1 - sum(self.shares.values())
        classes = [*([f"unknown {unknown:.1%}"] if unknown > 1e-9 else []), *classes]
        never = [name for name, share in self.shares.items() if not share]
        lines = [
            f"data: {plural(self.train, 'label map')} and {plural(self.photos, 'photo')} of about "
            f"{self.height}x{self.width} to train on, {self.held_out} held out",
            f"pixels: {first_few(classes, 12)}",
        ]
        lines += [f"in few label maps: {first_few(self.rare, 8)}"] if self.rare else []
        lines += [f"in none: {first_few(never, 8)}"] if never else []
        if self.photos < ENOUGH_PHOTOS:
            lines.append(f"few photos: {ENOUGH_PHOTOS} or more give better images")
        return "\n".join(lines)


@dataclass(frozen=True)
class MachineFingerprint:
    """What a run can use.

    Attributes:
        device: the device.
        cores: processors.
        memory: free memory of the device in bytes.
        disk: free space in bytes.
        bfloat16: whether the device computes bfloat16 in hardware.
    """

    device: torch.device
    cores: int
    memory: int
    disk: int
    bfloat16: bool

    @classmethod
    def take(cls, device: torch.device, out: Path) -> MachineFingerprint:
        """Look at the machine; `out` is on the disk whose space counts."""
        folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
        if device.type == "cuda":
            bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            bfloat16 = device.type == "cpu" and computes_bfloat16()
        free = shutil.disk_usage(folder).free
        return cls(device, available_processors(), free_memory(device), free, bfloat16)

    def __str__(self) -> str:
        """Return one line."""
        what = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return (
            f"machine: {what}, {plural(self.cores, 'processor')}, {self.memory / 2**30:.1f} GiB of memory and "
            f"{self.disk / 2**30:.1f} GiB of disk free, bfloat16 {'in' if self.bfloat16 else 'not in'} hardware"
        )


@dataclass(frozen=True)
class _Reading:
    """What one file gave: class counts, the photo's size and thumbnail, or an error."""

    counts: Tensor | None = None
    size: tuple[int, int] | None = None
    thumbnail: bytes = b""
    error: str | None = None


def check_count(photos: int) -> None:
    """Raise DataError for too few photos."""
    if photos < LEAST_PHOTOS:
        raise DataError(
            f"{plural(photos, 'photo')} are too few to learn from; give {LEAST_PHOTOS} at least, and {ENOUGH_PHOTOS} "
            "or more for good images"
        )


def fingerprint_data(data: Dataset, space: LabelSpace, on_progress: Progress | None = None) -> DataFingerprint:
    """Read label maps and photos, and check that they can be learned from.

    Args:
        data: the data.
        space: its classes.
        on_progress: called with the number of files read and their total.

    Raises:
        DataError: too few photos, files that cannot be read, photos that are all alike, or too small.
        LabelError: label maps with ids or colors outside the label space.
    """
    photos = data.photos["train"]
    check_count(len(photos) + len(data.photos["val"]))
    pairs = [pair for part in data.labels.values() for pair in part]
    everything = pairs if data.paired else [*pairs, *(photo for part in data.photos.values() for photo in part)]
    chosen = everything[:: -(-len(everything) // (2 * _MOST_READ))]
    readings = []
    for number, reading in enumerate(map_in_threads(lambda pair: _read(pair, space), chosen)):
        readings.append(reading)
        if on_progress is not None:
            on_progress(number + 1, len(chosen))
    _check(readings)
    counts = torch.stack([reading.counts for reading in readings if reading.counts is not None])
    classes = counts[:, : space.num_classes]
    sums = classes.sum(0).double() / max(1, int(counts.sum()))
    present = present_classes(counts, space.num_classes).double().mean(0)
    shares = dict(sorted(zip(space.names, sums.tolist(), strict=True), key=lambda item: -item[1]))
    height, width = (int(median(side)) for side in zip(*_sizes(readings), strict=True))
    return DataFingerprint(
        len(data.labels["train"]), len(data.labels["val"]), len(photos), height, width, shares,
        dict(zip(space.names, present.tolist(), strict=True)),
    )  # fmt: skip


def _read(pair: Pair, space: LabelSpace) -> _Reading:
    counts, size, thumbnail = None, None, b""
    try:
        label = None if pair.photo_only else pair.read_label(space)
        if label is not None:
            counts = torch.bincount(label.flatten(), minlength=space.num_channels)
        if pair.image is not None:
            photo = pair.read_image()
            if label is not None:
                check_sizes(pair, label, photo)
            size = (photo.shape[-2], photo.shape[-1])
            small = to_luma(resize_image(photo, _THUMBNAIL).float())
            thumbnail = bytes((small.flatten() // _LEVELS).to(torch.uint8).tolist())
    except (DataError, LabelError) as error:
        return _Reading(error=str(error))
    return _Reading(counts, size, thumbnail)


def _sizes(readings: Sequence[_Reading]) -> list[tuple[int, int]]:
    return [reading.size for reading in readings if reading.size is not None]


def _check(readings: Sequence[_Reading]) -> None:
    """Refuse data that cannot be learned from.

    Raises:
        DataError: see `fingerprint_data`.
    """
    broken = [reading.error for reading in readings if reading.error is not None]
    if broken:
        more = f" (and {plural(len(broken) - 1, 'more file')})" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}")
    different = len({reading.thumbnail for reading in readings if reading.size is not None})
    sizes = _sizes(readings)
    if different < LEAST_PHOTOS:
        raise DataError(
            f"only {different} of the {len(sizes)} photos differ, so there is too little to learn; give {LEAST_PHOTOS} "
            "different photos or more"
        )
    small = int(median(min(size) for size in sizes))
    if small < SIDES[0]:
        raise DataError(
            f"the photos are too small, half of them less than {small + 1} pixels high or wide; give photos of "
            f"{SIDES[0]} pixels or more"
        )
