"""Pairs on disk as samples of training, and which data set a configuration asks for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab2pix.batch import Batch
from lab2pix.config import DataConfig
from lab2pix.data.files import path_prefix, read_instances
from lab2pix.data.pairs import Pair, PairList
from lab2pix.data.pixels import uint8_to_float
from lab2pix.data.transforms import JointTransform, instance_edges
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels import LabelSpace

if TYPE_CHECKING:
    from lab2pix.data.scenes import ScenesDataset
    from lab2pix.data.sketches import Sketcher
    from lab2pix.data.unpaired import UnpairedDataset

__all__ = [
    "AnyDataset",
    "PairDataset",
    "Sample",
    "build_dataset",
    "check_sizes",
    "collate",
    "seeded_generator",
    "size_text",
]

AnyDataset: TypeAlias = "PairDataset | ScenesDataset | UnpairedDataset"
"""What `build_dataset` gives: each has a length, samples by index or `(epoch, index)`, and a `file_hash()`."""


class Sample(TypedDict):
    """One sample of training.

    `label` `[H, W]` int64 class ids; `image` `[3, H, W]` float32 RGB in [-1, 1]; `edges` `[1, H, W]` float32, 1 on
    borders between instances, None where not asked for; `name` what messages call it.
    """

    label: Tensor
    image: Tensor | None
    edges: Tensor | None
    name: str


class PairDataset(Dataset[Sample]):
    """Pairs of label map and photo.

    What a sample is depends on the seed, the epoch and its place alone, not on the order in which samples are read.

    Args:
        pairs: the pairs, with photos.
        label_space: the classes of the label maps.
        transform: resize, crop, flip.
        seed: decides crops and flips, together with epoch and place.
        edges: make the instance-boundary channel, too.
        root: folder that file names are hashed relative to; None: as they are.
        sketcher: makes line drawings, which are the label maps then; None: label maps are read.

    Raises:
        DataError: edges are wanted and a pair has no instance map.
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

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Read and transform a sample.

        Args:
            key: its place, or `(epoch, place)`; the epoch alone is 0.

        Raises:
            DataError: a file is unreadable, or photo and label map differ in size.
            LabelError: the label map holds what the label space does not have.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pair = self.pairs[index]
        image = None if pair.image is None else pair.read_image()
        label, instance = self._label(pair, image)
        generator = seeded_generator(self.seed, epoch, index)
        label, photo, instance = self.transform(label, image, instance, generator)
        return Sample(
            label=label.contiguous(),
            image=None if photo is None else uint8_to_float(photo).contiguous(),
            edges=None if instance is None else instance_edges(instance),
            name=pair.name,
        )

    def name(self, index: int) -> str:
        """Return what messages call a pair."""
        return self.pairs[index].name

    def read_label(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Read a label map and the instance map that goes with it, but not its photo.

        Returns:
            Both `[H, W]` int64, before crop and flip; no instance map where no edges are wanted.

        Raises:
            DataError: a file is unreadable, or both differ in size.
            LabelError: the label map holds what the label space does not have.
        """
        return self._label(self.pairs[index], None)

    def read_photo(self, index: int) -> Tensor:
        """Read a photo, but not its label map: `[3, H, W]` uint8, before resize, crop and flip.

        Raises:
            DataError: the file is unreadable.
        """
        return self.pairs[index].read_image()

    def _label(self, pair: Pair, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read label map and instance map, and compare their sizes and that of the photo if there is one."""
        read = pair.read_label(self.label_space) if self.sketcher is None else self.sketcher.read(pair, image)
        if image is not None:
            check_sizes(pair, read, image)
        instance = None
        if self.edges and pair.instance is not None:
            instance = read_instances(pair.instance)
            check_sizes(pair, read, instance, what="instance map")
        return read if self.sketcher is None else self.sketcher.draw(read, self.transform.whole), instance

    def file_hash(self) -> str:
        """Return a hash of the file list: names and sizes in bytes of all files, in their order."""
        digest = hashlib.sha256()
        start = "" if self.root is None else path_prefix(self.root)
        for row in self.pairs.rows():
            for path in dict.fromkeys((row.label, row.image, row.instance)):
                if path:
                    name = path.removeprefix(start).replace(os.sep, "/")
                    size = os.stat(path).st_size  # noqa: PTH116 (speed on large sets)
                    digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples of one size into a batch; photos and edges are left out unless every sample has them."""

    def stack(parts: list[Tensor | None]) -> Tensor | None:
        present = [part for part in parts if part is not None]
        return torch.stack(present) if len(present) == len(parts) else None

    return Batch(
        label=torch.stack([sample["label"] for sample in samples]),
        image=stack([sample["image"] for sample in samples]),
        edges=stack([sample["edges"] for sample in samples]),
        names=tuple(sample["name"] for sample in samples),
    )


def seeded_generator(*parts: object) -> torch.Generator:
    """Return a random generator that starts the same wherever the parts are the same."""
    words = "/".join(map(str, parts)).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))


def build_dataset(data: DataConfig, split: Literal["train", "val"], label_space: LabelSpace, seed: int) -> AnyDataset:
    """Find the data set that a configuration describes.

    Args:
        data: the data part of the configuration.
        split: `train` (random crops and flips, and with `data.unpaired` photos of other label maps), or `val` (neither;
            no photos where nobody knows which label map they belong to).
        label_space: the classes of the label maps.
        seed: decides crops, flips and which photo meets which label map.

    Raises:
        ConfigError: settings are missing or at odds.
        DataError: files are missing or without partner.
    """
    # Imported late: both are made of what this module has.
    from lab2pix.data.sides import is_paired, open_split
    from lab2pix.data.unpaired import UnpairedDataset

    train = split == "train"
    if not train and data.val_split is None:
        raise ConfigError("data.val_split is null, so nothing is held out; name a split")
    if is_paired(data):
        pairs = open_split(data, label_space, seed, "pairs", train=train)
        return UnpairedDataset(pairs, pairs, seed) if data.unpaired and train else pairs
    labels = open_split(data, label_space, seed, "labels", train=train)
    return UnpairedDataset(labels, open_split(data, label_space, seed, "photos", train=True), seed) if train else labels


def size_text(part: Tensor) -> str:
    """Return the size of `[..., H, W]` as people write it: width x height."""
    return f"{part.shape[-1]}x{part.shape[-2]}"


def check_sizes(pair: Pair, label: Tensor, other: Tensor, what: str = "photo") -> None:
    """Refuse a label map and a partner of different sizes.

    Raises:
        DataError: height or width differ.
    """
    if label.shape[-2:] != other.shape[-2:]:
        raise DataError(
            f"{pair.label} is {size_text(label)} pixels and its {what} {size_text(other)}; "
            "give both the same size, or remove the pair"
        )
