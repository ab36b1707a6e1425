"""Label maps and photos that are not pairs: which photo meets which label map, anew in each epoch."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab2pix.data.dataset import Sample, seeded_generator
from lab2pix.data.pixels import uint8_to_float
from lab2pix.data.transforms import JointTransform, instance_edges
from lab2pix.errors import DataError

__all__ = ["SampleSource", "UnpairedDataset", "random_pairing"]


class SampleSource(Protocol):
    """Where an unpaired set takes its label maps or its photos from; one object may be both."""

    @property
    def transform(self) -> JointTransform:
        """Resize, crop and flip of whatever it gives."""

    def __len__(self) -> int:
        """Return how many label maps, or photos, there are."""

    def name(self, index: int) -> str:
        """Return what messages call one."""

    def read_label(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return a label map and its instance map, if wanted, `[H, W]` int64, before crop and flip."""

    def read_photo(self, index: int) -> Tensor:
        """Return a photo `[3, H, W]` uint8, before crop and flip."""

    def file_hash(self) -> str:
        """Return a hash of what it holds."""


def random_pairing(seed: int, epoch: int, labels: int, photos: int, *, paired: bool) -> Tensor:
    """Draw which photo each label map meets in an epoch.

    Each photo is met as often as any other, or once more. Where the pairing is known all label maps and photos stand in
    one circle, shuffled anew in each epoch, and each label map meets the photo of the next.

    Args:
        seed: decides the draw, together with the epoch.
        epoch: which epoch.
        labels: how many label maps, 1 or more.
        photos: how many photos, 1 or more.
        paired: photo i belongs to label map i, and they must not meet; then there are 2 or more of both.

    Returns:
        `[labels]` int64 indices of photos.
    """
    generator = seeded_generator("partners", seed, epoch)
    if paired:
        circle = torch.randperm(labels, generator=generator)
        return torch.empty_like(circle).index_put_((circle,), circle.roll(-1))
    rounds = [torch.randperm(photos, generator=generator) for _ in range(-(-labels // photos))]
    return torch.cat(rounds)[:labels]


class UnpairedDataset(Dataset[Sample]):
    """Label maps, each with a photo of another, as samples of training; the interface of `PairDataset`.

    Which photo it is depends on seed and epoch alone; crops and flips of both sides on seed, epoch and place, each side
    by itself. Reading a label map does not read its own photo, nor the other way round.

    Args:
        labels: where the label maps come from.
        photos: where the photos come from; the same object where photo i belongs to label map i.
        seed: decides all of it.

    Raises:
        DataError: there is a single pair, whose label map could meet its own photo only.
    """

    def __init__(self, labels: SampleSource, photos: SampleSource, seed: int) -> None:
        if labels is photos and len(labels) < 2:
            raise DataError(
                f"There is only one pair to train on, {labels.name(0)}, so its label map could only meet its own "
                "photo; add more"
            )
        self.labels, self.photos, self.seed = labels, photos, seed
        self._drawn: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of label maps."""
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Read and transform a label map and the photo that it meets.

        Args:
            key: the label map's place, or `(epoch, place)`; the epoch alone is 0.

        Raises:
            DataError: a file is unreadable.
            LabelError: the label map holds what the label space does not have.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        label, instance = self.labels.read_label(index)
        photo = self.photos.read_photo(self.partner(epoch, index))
        where = (self.seed, epoch, index)
        label, _, instance = self.labels.transform(label, None, instance, seeded_generator("label", *where))
        photo = self.photos.transform.photo(photo, seeded_generator("photo", *where))
        return Sample(
            label=label.contiguous(),
            image=uint8_to_float(photo).contiguous(),
            edges=None if instance is None else instance_edges(instance),
            name=self.name(index),
        )

    def name(self, index: int) -> str:
        """Return what messages call a label map."""
        return self.labels.name(index)

    def partner(self, epoch: int, index: int) -> int:
        """Return which photo a label map meets in an epoch."""
        if epoch not in self._drawn:
            paired = self.labels is self.photos
            drawn = random_pairing(self.seed, epoch, len(self.labels), len(self.photos), paired=paired)
            # The epoch before stays: a batch may reach back into it, and more than two are never read at once.
            self._drawn = {e: kept for e, kept in self._drawn.items() if e == epoch - 1} | {epoch: drawn}
        return int(self._drawn[epoch][index])

    def file_hash(self) -> str:
        """Return a hash of what both sides hold."""
        labels = self.labels.file_hash()
        photos = labels if self.photos is self.labels else self.photos.file_hash()
        sides = f"unpaired\n{labels}\n{photos}"
        return hashlib.sha256(sides.encode()).hexdigest()
