"""Pairs on disk as samples of training, and which data set a configuration asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab2pix.batch import Batch
from lab2pix.config import DataConfig
from lab2pix.data.files import read_instances
from lab2pix.data.layouts import Pair, find_pairs
from lab2pix.data.pixels import from_bytes
from lab2pix.data.transforms import JointTransform, instance_edges
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels import LabelSpace

if TYPE_CHECKING:
    from lab2pix.data.scenes import ScenesDataset

__all__ = ["PairDataset", "Sample", "build_dataset", "check_sizes", "collate", "size_text"]

VAL_SCENES_START = 1_000_000_000
"""Number of the first held-out scene: far behind any that is trained on."""


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
    ) -> None:
        without = next((pair for pair in pairs if pair.instance is None), None) if edges else None
        if without is not None:
            raise DataError(f"{without.label} comes without an instance map; add it, or set data.instance_edges=false")
        self.pairs = pairs
        self.label_space = label_space
        self.transform = transform
        self.seed = seed
        self.edges = edges
        self.root = root

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
        label = pair.read_label(self.label_space)
        image = pair.read_image()
        check_sizes(pair, label, image)
        instance = None
        if self.edges and pair.instance is not None:
            instance = read_instances(pair.instance)
            check_sizes(pair, label, instance, what="instance map")
        words = f"{self.seed}/{epoch}/{index}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
        label, photo, instance = self.transform(label, image, instance, generator)
        return Sample(
            label=label.contiguous(),
            image=None if photo is None else from_bytes(photo).contiguous(),
            edges=None if instance is None else instance_edges(instance),
            name=pair.name,
        )

    def file_hash(self) -> str:
        """Return a hash of the file list: names and sizes in bytes of all files, in their order."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for path in dict.fromkeys((pair.label, pair.image, pair.instance)):
                if path is not None:
                    name = path.relative_to(self.root) if self.root is not None else path
                    digest.update(f"{name.as_posix()}\0{path.stat().st_size}\n".encode())
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


def build_dataset(
    data: DataConfig, split: Literal["train", "val"], label_space: LabelSpace, seed: int
) -> PairDataset | ScenesDataset:
    """Find the data set that a configuration describes.

    Args:
        data: the data part of the configuration.
        split: `train` (random crops and flips), or `val` (neither).
        label_space: the classes of the label maps.
        seed: decides crops and flips.

    Raises:
        ConfigError: settings are missing or at odds.
        DataError: files are missing or without partner.
    """
    train = split == "train"
    if not train and data.val_split is None:
        raise ConfigError("data.val_split is null, so nothing is held out; name a split")
    if data.layout == "scenes":
        return _build_scenes(data, label_space, train)
    if data.root is None:
        raise ConfigError(f"data.root is missing: layout '{data.layout}' needs the data set's folder")
    root = Path(data.root).expanduser()
    return PairDataset(
        find_pairs(data.layout, root, data.train_split if train else data.val_split),
        label_space,
        JointTransform(data.size, data.resize, data.flip, train),
        seed=seed,
        edges=data.instance_edges,
        root=root,
    )


def _build_scenes(data: DataConfig, label_space: LabelSpace, train: bool) -> ScenesDataset:
    """Return the drawn scenes to train on or to hold out."""
    from lab2pix.data.scenes import ScenesDataset

    if label_space.names != LabelSpace.load("scenes").names:
        raise ConfigError(f"data.label_space is '{label_space.name}', but layout 'scenes' draws label space 'scenes'")
    if data.resize is not None:
        raise ConfigError("data.resize has no use for layout 'scenes', which draws at data.size; set it to null")
    if data.instance_edges:
        raise ConfigError("data.instance_edges is true, but layout 'scenes' draws no instances; set it to false")
    count, first = (data.scenes.train_count, 0) if train else (data.scenes.val_count, VAL_SCENES_START)
    return ScenesDataset(count, data.size, data.scenes.seed, first, flip=data.flip, train=train)


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
