"""Dataset construction from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from lab2pix.config.schema import DataConfig, SketchConfig, SourceConfig
from lab2pix.data.datasets import PairDataset, UnpairedDataset
from lab2pix.data.files import list_inputs, path_prefix
from lab2pix.data.formats import SHARDS, find_pairs
from lab2pix.data.pairs import PairList, Row
from lab2pix.data.scenes.dataset import ScenesDataset
from lab2pix.data.shard_index import find_shard_pairs
from lab2pix.data.sketches import Sketcher, sketcher_of
from lab2pix.data.transforms import JointTransform
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels.space import LabelSpace

AnyDataset: TypeAlias = PairDataset | ScenesDataset | UnpairedDataset
"""Datasets of `build_dataset`: sized, indexed by `index` or `(epoch, index)`, with a `file_hash()`."""


def build_dataset(
    data: DataConfig, split: Literal["train", "val"], label_space: LabelSpace, seed: int, *, paired: bool
) -> AnyDataset:
    """Build the dataset of a configuration.

    `train` has random crops and flips, and random photos for unpaired methods; `val` has neither, and no photos if
    the pairing is unknown. `paired` says whether the method learns from pairs.

    Raises:
        ConfigError: settings are missing or in conflict.
        DataError: files are missing or have no partner.
    """
    train = split == "train"
    if not train and data.val_split is None:
        raise ConfigError("data.val_split is null, so nothing is held out; name a split")
    if paired:
        _check_pairs(data)
    if is_paired(data):
        pairs = open_split(data, label_space, seed, "pairs", train=train)
        return UnpairedDataset(pairs, pairs, seed) if train and not paired else pairs
    labels = open_split(data, label_space, seed, "labels", train=train)
    return UnpairedDataset(labels, open_split(data, label_space, seed, "photos", train=True), seed) if train else labels


VAL_SCENES_START = 1_000_000_000
"""Index of the first held-out scene, far beyond those of training."""


def is_paired(data: DataConfig) -> bool:
    """Return whether the data is paired: whether the photo of each label map is known.

    False for format `unaligned` and for separate folders of inputs or photos. Sketches made from photos are paired.

    Raises:
        ConfigError: sketches are made from photos, but a folder of label maps is set, too.
    """
    if data.input == "images":
        return data.format != "unaligned" and data.source.root is None and data.images.root is None
    if data.sketch.from_ == "photo":
        if data.labels.root is not None:
            raise ConfigError(
                "data.labels.root is set, but data.sketch.from is 'photo', so sketches are made from the photos; leave "
                "one of them out"
            )
        return True
    return data.format != "unaligned" and data.labels.root is None and data.images.root is None


def _check_pairs(data: DataConfig) -> None:
    if data.format == "unaligned":
        raise ConfigError("data.format is 'unaligned', but the method learns from pairs; choose an unpaired method")
    for key, side in (("labels", data.labels), ("images", data.images), ("source", data.source)):
        if side.root is not None:
            raise ConfigError(
                f"data.{key}.root is set, but the method learns from pairs, which are together in data.root; leave it "
                "out, or choose an unpaired method"
            )


def open_split(
    data: DataConfig, label_space: LabelSpace, seed: int, parts: Literal["pairs", "labels", "photos"], *, train: bool
) -> PairDataset | ScenesDataset:
    """Open the pairs, the inputs (label maps or source images) or the photos of a split.

    The inputs are named `labels` in `parts`. `seed` is that of crops and flips.

    Raises:
        ConfigError: settings are missing or in conflict.
        DataError: files are missing or have no partner.
    """
    _check_input(data)
    sketcher = sketcher_of(data, label_space) if data.input == "labels" else None
    split = data.train_split if train else data.val_split
    if sketcher is not None and sketcher.source == "photo":
        parts = "photos"
    folder = {"labels": data.inputs_root, "photos": data.images.root, "pairs": None}[parts]
    if folder is not None:
        root = Path(folder)
        inputs: Literal["labels", "source"] = "labels" if data.input == "labels" else "source"
        pairs = _list_folder(root, split, data, inputs if parts == "labels" else "images")
    elif data.format == "scenes":
        return _open_scenes(data, label_space, sketcher, parts, train=train)
    elif data.root is None:
        raise ConfigError(f"data.root is missing: format '{data.format}' needs the dataset's folder")
    elif data.format == SHARDS:
        root = Path(data.root)
        pairs = find_shard_pairs(data.root, split, need_images=parts != "labels", need_labels=parts != "photos")
    else:
        root = Path(data.root)
        wanted = {"need_images": parts != "labels", "need_labels": parts != "photos"}
        pairs = find_pairs(data.format, root, split, **wanted)
    return PairDataset(
        pairs,
        label_space,
        JointTransform(data.size, data.resize, data.flip, train),
        seed=seed,
        edges=data.instance_edges and parts != "photos",
        root=root,
        sketcher=sketcher,
        source=data.source if data.input == "images" else None,
        alpha=data.alpha,
    )


def _check_input(data: DataConfig) -> None:
    """Check that no setting applies to the other value of `data.input`.

    Raises:
        ConfigError: one does.
    """
    if data.input == "labels":
        if data.source != SourceConfig():
            raise ConfigError("data.source is set, but data.input is 'labels'; omit it, or set data.input=images")
        return
    unused = {
        "data.labels.root": data.labels.root is not None,
        "data.sketch": data.sketch != SketchConfig(),
        "data.instance_edges": data.instance_edges,
        "data.format=scenes": data.format == "scenes" and (data.source.root is None or data.images.root is None),
    }
    if wrong := [name for name, given in unused.items() if given]:
        raise ConfigError(
            f"{wrong[0]} is for label maps, but data.input is 'images'; omit it, or set data.input=labels"
        )


def has_held_out_photos(data: DataConfig) -> bool:
    """Return whether there are held-out photos, in pairs or in a separate folder."""
    root = data.images.root
    if data.val_split is None:
        return False
    return is_paired(data) or root is None or (Path(root) / data.val_split).is_dir()


def open_held_out_photos(data: DataConfig, label_space: LabelSpace, seed: int) -> PairDataset | ScenesDataset | None:
    """Open the held-out photos of unpaired data; None if the data is paired or has none.

    Raises:
        DataError: files are missing.
    """
    if is_paired(data) or not has_held_out_photos(data):
        return None
    return open_split(data, label_space, seed, "photos", train=False)


def _list_folder(
    root: Path, split: str | None, data: DataConfig, key: Literal["labels", "images", "source"]
) -> PairList:
    """List the files of a separate folder of inputs or photos, or of its sub-folder for the split if it has one."""
    what = {"labels": "label maps", "images": "photos", "source": "images to generate from"}[key]
    setting = f"data.{key}.root"
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; give the folder of {what} ({setting})")
    folder = root / split if split else root
    if not folder.is_dir():
        if split == data.val_split:
            raise DataError(f"{root} has no folder '{split}' to hold out; add it, or set data.val_split=null")
        if data.val_split and (root / data.val_split).is_dir():
            raise DataError(
                f"{root} has a folder '{data.val_split}' to hold out but no '{split}' to train on; set "
                "data.train_split to the name of one, or data.val_split=null to train on all"
            )
        folder = root
    files = ((stem, f"{path_prefix(folder)}{stem}{suffix}") for stem, suffix in list_inputs(folder))
    pairs = PairList(Row(stem, file, file if key == "images" else "") for stem, file in files)
    if not pairs:
        raise DataError(f"There are no {what} in {folder}; put some there, or correct {setting}")
    return pairs


def _open_scenes(
    data: DataConfig, label_space: LabelSpace, sketcher: Sketcher | None, parts: str, *, train: bool
) -> ScenesDataset:
    """Return the procedural scenes of the training or validation split."""
    scenes = LabelSpace.load("scenes").names
    if sketcher is not None and sketcher.source == "labels" and sketcher.label_space.names != scenes:
        raise ConfigError(
            f"data.sketch.label_space is '{sketcher.label_space.name}', but format 'scenes' has label space 'scenes'"
        )
    if parts != "photos" and label_space.names != scenes and (sketcher is None or sketcher.source == "files"):
        hint = "; set data.sketch.from to photo or labels" if sketcher is not None else ""
        raise ConfigError(
            f"data.label_space is '{label_space.name}', but format 'scenes' has label space 'scenes'{hint}"
        )
    if data.resize is not None:
        raise ConfigError(
            "data.resize has no effect with format 'scenes', which makes scenes of data.size; set it to null"
        )
    if data.instance_edges:
        raise ConfigError("data.instance_edges is true, but format 'scenes' has no instances; set it to false")
    count, first = (data.scenes.train_count, 0) if train else (data.scenes.val_count, VAL_SCENES_START)
    seed, light = data.scenes.seed, data.scenes.light
    return ScenesDataset(count, data.size, seed, first, flip=data.flip, train=train, sketcher=sketcher, light=light)
