"""Data of a fit: what a folder holds, its held-out part, and its classes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from lab2pix.data.files import list_images
from lab2pix.data.image_file import open_image
from lab2pix.data.pairs import Pair
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import output_errors, write_atomically
from lab2pix.utils.seeding import content_seed
from lab2pix.utils.text import plural

Form = Literal["photos", "pairs", "unpaired"]
"""What a folder holds: photos alone, photos with label maps, or photos and label maps that are no pairs."""

LABELS, PHOTOS = "labels", ("images", "photos")
CLASSES_FILE = "classes.yaml"
_SPLITS = ("train", "val")
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 100
_PAIRED_SHARE = 0.5
"""Share of the fewer files that must have a partner of the same name for a folder to hold pairs."""
_MOST_COLORS = 200
_UNKNOWN = 255


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


# --- its classes ----------------------------------------------------------------------------------------------------


def find_label_space(given: str | None, found: Found, file: Path) -> tuple[LabelSpace, str]:
    """Return the label space and where it is: as given, the folder's `classes.yaml`, or derived from the label maps.

    Args:
        given: name or file; None: none is given.
        found: the data.
        file: file to write a derived label space to.

    Raises:
        LabelError: an invalid label space, or label maps with too many colors.
        DataError: a label map cannot be read.
        OutputError: the file cannot be written.
    """
    own = found.root / CLASSES_FILE
    if given is not None or own.is_file():
        source = given if given is not None else str(own)
        return LabelSpace.load(source), source
    space = derive_label_space(found.labels.values(), found.root)
    with output_errors(file, "choose another --out"):
        write_atomically(file, yaml.safe_dump(space.to_dict(), sort_keys=False))
    return space, str(file)


def derive_label_space(files: Iterable[Path], root: Path) -> LabelSpace:
    """Return a label space of the values or colors in label maps, with classes named `class 0`, `class 1`, ...

    A value of 255 far above the others is unknown; palettes give the colors.

    Raises:
        LabelError: there are too many colors for classes.
        DataError: a file cannot be read.
    """
    values: dict[int, Any] = {}
    colors: set[tuple[int, ...]] = set()
    for path in files:
        image = open_image(path).image
        if image.mode in ("1", "L", "P", "I", "I;16"):
            palette = image.getpalette() if image.mode == "P" else None
            for value in np.unique(np.asarray(image)).tolist():
                values.setdefault(int(value), None if palette is None else palette[3 * value : 3 * value + 3])
        else:
            pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB")).reshape(-1, 3)
            colors |= set(map(tuple, np.unique(pixels, axis=0).tolist()))
        if len(colors) > _MOST_COLORS or len(values) > _UNKNOWN + 1:
            raise LabelError(
                f"the label maps of {root} have more values or colors than classes can have, such as in {path}; list "
                f"the classes with their colors in {root / CLASSES_FILE}"
            )
    if colors:
        classes = [{"name": f"class {index}", "color": list(color)} for index, color in enumerate(sorted(colors))]
        return LabelSpace.from_dict({"name": root.resolve().name, "classes": classes})
    unknown = _UNKNOWN if _UNKNOWN in values and max((v for v in values if v != _UNKNOWN), default=0) < 254 else None
    ids = [value for value in sorted(values) if value != unknown]
    listed = []
    for value in ids:
        color = values[value]
        listed.append({"name": f"class {value}", "value": value} | ({} if color is None else {"color": color}))
    return LabelSpace.from_dict({"name": root.resolve().name, "classes": listed, "unknown_value": unknown})
