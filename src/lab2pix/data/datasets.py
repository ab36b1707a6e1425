"""Paired and unpaired datasets of label maps and photos."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab2pix.data.files import path_prefix
from lab2pix.data.pairs import Pair, PairList
from lab2pix.data.samples import Sample
from lab2pix.data.transforms import JointTransform, instance_edges, uint8_to_float
from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.seeding import seeded_generator

if TYPE_CHECKING:
    from lab2pix.config.schema import Alpha, SourceConfig
    from lab2pix.data.sketches import Sketcher


class PairDataset(Dataset[Sample]):
    """Dataset of label maps with their photos.

    A sample depends only on seed, epoch and index, not on the order of reads.

    Args:
        pairs: the pairs.
        label_space: classes of the label maps.
        transform: resize, crop and flip.
        seed: seed of crops and flips.
        edges: whether to read instance maps and compute the instance-boundary channel.
        root: folder that hashed file names are relative to; None: paths are hashed unchanged.
        sketcher: creates line drawings as label maps; None: label maps are read.
        source: how to read source images, which replace label maps; None: there are none.
        alpha: what becomes of transparency in photos.

    Raises:
        DataError: `edges` is set and a pair has no instance map.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        label_space: LabelSpace,
        transform: JointTransform,
        *,
        seed: int = 0,
        edges: bool = False,
        root: Path | None = None,
        sketcher: Sketcher | None = None,
        source: SourceConfig | None = None,
        alpha: Alpha = "drop",
    ) -> None:
        pairs = PairList.of(pairs)
        without = next((row for row in pairs.rows() if not row.instance), None) if edges else None
        if without is not None:
            raise DataError(f"{without.label} comes without an instance map; add it, or set data.instance_edges=false")
        self.pairs = pairs
        self.label_space = label_space
        self.transform = transform
        self.seed = seed
        self.edges = edges
        self.root = root
        self.sketcher = sketcher
        self.source = source
        self.alpha = alpha

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Read and transform a sample.

        Args:
            key: index, or `(epoch, index)`; the default epoch is 0.

        Raises:
            DataError: a file is unreadable, or photo and label map differ in size.
            LabelError: the label map has ids or colors outside the label space.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pair = self.pairs[index]
        image = None if pair.image is None else pair.read_image(self.alpha)
        label, instance = self._label(pair, image)
        generator = seeded_generator(self.seed, epoch, index)
        label, photo, instance = self.transform(label, image, instance, generator)
        return _sample(label, photo, instance, pair.name)

    def name(self, index: int) -> str:
        """Return the name of a pair, for messages."""
        return self.pairs[index].name

    def read_label(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Read a label map and its instance map, without the photo.

        Returns:
            Both `[H, W]` int64, before crop and flip; the instance map is None unless `edges` is set. A source image is
            `[C, H, W]` float32 in [-1, 1].

        Raises:
            DataError: a file is unreadable, or the sizes differ.
            LabelError: the label map has ids or colors outside the label space.
        """
        return self._label(self.pairs[index], None)

    def read_photo(self, index: int) -> Tensor:
        """Read a photo without its label map: `[3, H, W]` uint8, before resize, crop and flip.

        Raises:
            DataError: the file is unreadable.
        """
        return self.pairs[index].read_image(self.alpha)

    def _label(self, pair: Pair, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read label map and instance map, and check that their sizes and that of the photo, if given, agree."""
        if self.source is not None:
            read = pair.read_source(self.source.channels, self.source.range)
        else:
            read = pair.read_label(self.label_space) if self.sketcher is None else self.sketcher.read(pair, image)
        if image is not None:
            check_sizes(pair, read, image)
        instance = None
        if self.edges and pair.instance is not None:
            instance = pair.read_instances()
            check_sizes(pair, read, instance, what="instance map")
        return read if self.sketcher is None else self.sketcher.draw(read, self.transform.whole), instance

    def file_hash(self) -> str:
        """Return a hash of the file list: names and sizes in bytes of all files, in order."""
        digest = hashlib.sha256()
        start = "" if self.root is None else path_prefix(self.root)
        for path, size in self.pairs.sizes():
            name = path.removeprefix(start).replace(os.sep, "/")
            digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _sample(label: Tensor, photo: Tensor | None, instance: Tensor | None, name: str) -> Sample:
    """Create a sample from transformed parts; a 3-D `label` is a source image."""
    source = label.contiguous() if label.ndim == 3 else None
    return Sample(
        label=label.contiguous() if source is None else torch.empty(0, 0, dtype=torch.int64),
        image=None if photo is None else uint8_to_float(photo).contiguous(),
        edges=None if instance is None else instance_edges(instance),
        instances=None if instance is None else instance.contiguous(),
        name=name,
        source=source,
    )


def size_text(part: Tensor) -> str:
    """Format the size of `[..., H, W]` as height x width."""
    return f"{part.shape[-2]}x{part.shape[-1]}"


def check_sizes(pair: Pair, label: Tensor, other: Tensor, what: str = "photo") -> None:
    """Check that a label map and its photo or instance map have the same size.

    Raises:
        DataError: height or width differ.
    """
    if label.shape[-2:] != other.shape[-2:]:
        raise DataError(
            f"{pair.label} is {size_text(label)} pixels (height x width) and its {what} {size_text(other)}; give both "
            "the same size, or remove the pair"
        )


class SampleSource(Protocol):
    """Source of the label maps or photos of an unpaired dataset; one object can serve both."""

    @property
    def transform(self) -> JointTransform:
        """Resize, crop and flip."""

    def __len__(self) -> int:
        """Return the number of label maps or photos."""

    def name(self, index: int) -> str:
        """Return the name of a label map or photo, for messages."""

    def read_label(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return a label map and its instance map (if used), `[H, W]` int64, before crop and flip."""

    def read_photo(self, index: int) -> Tensor:
        """Return a photo `[3, H, W]` uint8, before crop and flip."""

    def file_hash(self) -> str:
        """Return a hash of the content."""


def random_pairing(seed: int, epoch: int, labels: int, photos: int, *, paired: bool) -> Tensor:
    """Sample the photo for each label map in one epoch.

    Photos are used equally often, up to a difference of one. For paired data the indices form a random cycle, and each
    label map gets the photo of its successor, so never its own.

    `paired`: photo i belongs to label map i, which it must not be combined with; both numbers are equal, at least 2.

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
    """Unpaired dataset: label maps with random photos, with the interface of `PairDataset`.

    The pairing depends on seed, epoch and index; so do crops and flips, which are independent for label map and photo.

    Args:
        labels: source of the label maps.
        photos: source of the photos; the same object as `labels` if photo i belongs to label map i.
        seed: seed of pairing, crops and flips.

    Raises:
        DataError: `labels` and `photos` are the same object with a single pair.
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
        """Read and transform a label map and its random photo.

        Args:
            key: index of the label map, or `(epoch, index)`; the default epoch is 0.

        Raises:
            DataError: a file is unreadable.
            LabelError: the label map has ids or colors outside the label space.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        label, instance = self.labels.read_label(index)
        photo = self.photos.read_photo(self.partner(epoch, index))
        where = (self.seed, epoch, index)
        label, _, instance = self.labels.transform(label, None, instance, seeded_generator("label", *where))
        photo = self.photos.transform.photo(photo, seeded_generator("photo", *where))
        return _sample(label, photo, instance, self.name(index))

    def name(self, index: int) -> str:
        """Return the name of a label map, for messages."""
        return self.labels.name(index)

    def partner(self, epoch: int, index: int) -> int:
        """Return the index of the photo for a label map in an epoch."""
        if epoch not in self._drawn:
            paired = self.labels is self.photos
            drawn = random_pairing(self.seed, epoch, len(self.labels), len(self.photos), paired=paired)
            # Keep the previous epoch, too: a batch can span two epochs, but never more.
            self._drawn = {e: kept for e, kept in self._drawn.items() if e == epoch - 1} | {epoch: drawn}
        return int(self._drawn[epoch][index])

    def file_hash(self) -> str:
        """Return a hash of both sources."""
        labels = self.labels.file_hash()
        photos = labels if self.photos is self.labels else self.photos.file_hash()
        sides = f"unpaired\n{labels}\n{photos}"
        return hashlib.sha256(sides.encode()).hexdigest()
