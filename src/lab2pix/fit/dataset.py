"""Data of a fit: what a folder holds, and its held-out part."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab2pix.data.files import list_images
from lab2pix.data.pairs import Pair
from lab2pix.errors import DataError
from lab2pix.utils.files import output_errors
from lab2pix.utils.seeding import content_seed
from lab2pix.utils.text import plural

Form = Literal["photos", "pairs", "unpaired"]
"""What a folder holds: photos alone, photos with label maps, or photos and label maps that are no pairs."""

LABELS, PHOTOS = "labels", ("images", "photos")
_SPLITS = ("train", "val")
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 100
_PAIRED_SHARE = 0.5
"""Share of the fewer files that must have a partner of the same name for a folder to hold pairs."""


@dataclass(frozen=True)
class Found:
    """Files of a folder.

    Attributes:
        root: the folder.
        form: what it holds.
        labels, photos: paths by name, which begins with the split if the folder has splits.
        split: whether there are parts `train` and `val` already.
        lonely: files without a partner in a folder of pairs, which are left out.
    """

    root: Path
    form: Form
    labels: Mapping[str, Path]
    photos: Mapping[str, Path]
    split: bool = False
    lonely: int = 0


@dataclass(frozen=True)
class Dataset:
    """Data as a run reads it.

    Attributes:
        paired: whether label maps and photos are pairs.
        settings: settings of section `data`, by key.
        labels: label maps by split, with their photos if `paired`.
        photos: photos by split.
        note: one sentence on the held-out part.
    """

    paired: bool
    settings: Mapping[str, Any]
    labels: Mapping[str, list[Pair]]
    photos: Mapping[str, list[Pair]]
    note: str


# --- what a folder holds --------------------------------------------------------------------------------------------


def find_data(root: Path) -> Found:
    """Tell which of the three forms a folder has.

    Label maps are in its folder `labels`, photos in `images` or `photos`. If at least half of the fewer ones have a
    partner of the same name, they are pairs. Without these folders, photos (`.jpg`) whose label maps (`.png`) have the
    same names are pairs, too, and all other images are photos.

    Raises:
        DataError: no such folder, no images, or label maps without photos.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give a folder of photos, or of photos and label maps")
    sides = [_list(root / LABELS), *(_list(root / name) for name in PHOTOS)]
    labels, photos = sides[0], sides[1] or sides[2]
    if labels and not photos:
        raise DataError(f"{root} has label maps in {LABELS}, but no photos in {PHOTOS[0]} or {PHOTOS[1]}; add them")
    if not labels:
        files = photos or _list(root, (".jpg", ".jpeg"))
        masks = {} if photos else _list(root, (".png",))
        if not masks.keys() & files.keys():
            files = photos or _list(root)
            if not files:
                raise DataError(f"there are no images in {root}; give a folder of JPEG or PNG files")
            return Found(root, "photos", {}, files)
        labels, photos = masks, files
    both = labels.keys() & photos.keys()
    if len(both) < _PAIRED_SHARE * min(len(labels), len(photos)):
        return Found(root, "unpaired", labels, photos, _has_splits(labels) and _has_splits(photos))
    labels, photos = ({name: side[name] for name in side if name in both} for side in (labels, photos))
    lonely = len(sides[0] or labels) + len(sides[1] or sides[2] or photos) - 2 * len(both)
    return Found(root, "pairs", labels, photos, _has_splits(labels), lonely)


def _list(folder: Path, suffixes: Iterable[str] | None = None) -> dict[str, Path]:
    """Return the images of a folder by name."""
    found = list_images(folder) if suffixes is None else list_images(folder, frozenset(suffixes))
    return {stem: folder / f"{stem}{suffix}" for stem, suffix in found}


def _has_splits(files: Iterable[str]) -> bool:
    return {name.partition("/")[0] for name in files} == set(_SPLITS)


def held_out_names(names: Iterable[str]) -> set[str]:
    """Return the names to hold out: a tenth, at least two and at most a hundred, by a hash of the names."""
    order = sorted(names, key=lambda name: content_seed(name.encode("utf-8", "surrogateescape")))
    return set(order[: min(_MOST_HELD_OUT, max(2, round(_HELD_OUT_SHARE * len(order))))])


# --- as a run reads it ----------------------------------------------------------------------------------------------


def arrange(found: Found, out: Path) -> Dataset:
    """Return pairs, or label maps and photos, as a run reads them; without splits, hold a part out.

    A folder with splits in format `folder` is read where it is. Otherwise `out` gets links to the files, below
    `labels/SPLIT` and `images/SPLIT`; copies where the file system has no links.

    Raises:
        OutputError: a link cannot be made.
    """
    paired = found.form == "pairs"
    labels, photos = _by_split(found, found.labels), _by_split(found, found.photos)
    total = len(found.labels)
    note = f"the {plural(len(labels['val']), 'label map')} in 'val'"
    if not found.split:
        note = f"{len(labels['val'])} of {plural(total, 'label map')}, by a hash of their names"
    if found.lonely:
        note += f"; {plural(found.lonely, 'file')} without a partner are left out"
    folders = {LABELS: found.root / LABELS, PHOTOS[0]: _photo_folder(found)}
    ordinary = folders[LABELS].is_dir() and (not paired or folders[PHOTOS[0]].name == PHOTOS[0])
    if not found.split or found.lonely or not ordinary:
        folders = {name: out / name for name in folders}
        with output_errors(out, "choose another --out"):
            labels = _link(labels, folders[LABELS])
            photos = _link(photos, folders[PHOTOS[0]])
    settings: dict[str, Any] = {"data.format": "folder", "data.train_split": "train", "data.val_split": "val"}
    if paired:
        settings["data.root"] = str(folders[LABELS].parent)
        pairs = {
            split: [Pair(name, file, photos[split][name]) for name, file in sorted(files.items())]
            for split, files in labels.items()
        }
    else:
        settings |= {"data.labels.root": str(folders[LABELS]), "data.images.root": str(folders[PHOTOS[0]])}
        pairs = {split: [Pair(name, file) for name, file in sorted(files.items())] for split, files in labels.items()}
    alone = {split: [Pair(name, file, file) for name, file in sorted(files.items())] for split, files in photos.items()}
    return Dataset(paired, settings, pairs, alone, note)


def _photo_folder(found: Found) -> Path:
    return next((found.root / name for name in PHOTOS if (found.root / name).is_dir()), found.root)


def _by_split(found: Found, files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Divide files into splits."""
    if found.split:
        parts = ((*name.partition("/")[::2], path) for name, path in files.items())
        divided: dict[str, dict[str, Path]] = {split: {} for split in _SPLITS}
        for split, name, path in parts:
            divided[split][name] = path
        return divided
    held_out = held_out_names(files)
    return {
        split: {name: path for name, path in files.items() if (name in held_out) == (split == "val")}
        for split in _SPLITS
    }


def _link(files: Mapping[str, Mapping[str, Path]], folder: Path) -> dict[str, dict[str, Path]]:
    """Link files below a folder, by split; remove links of an earlier plan."""
    for link in folder.rglob("*"):
        if link.is_symlink():
            link.unlink()
    links: dict[str, dict[str, Path]] = {}
    for split, named in files.items():
        links[split] = {name: folder / split / f"{name}{path.suffix}" for name, path in named.items()}
        for name, link in links[split].items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                _link_one(named[name].resolve(), link)
    return links


def _link_one(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file)
    except (OSError, NotImplementedError):  # a file system without links, or a user who may not make them
        shutil.copyfile(file, link)
