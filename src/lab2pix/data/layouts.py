"""Where the parts of a pair (label map, photo, instance map) lie on disk, for every layout that data sets come in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from lab2pix.data.drawings import SEAM, Lines, find_lines
from lab2pix.data.files import find_images, read_image, read_label, read_label_image, to_label, to_rgb
from lab2pix.errors import DataError, LabelError, did_you_mean
from lab2pix.labels import LabelSpace

__all__ = ["LAYOUTS", "Layout", "Pair", "Scan", "find_pairs", "layout_descriptions", "layout_names", "scan"]

Form = Literal["files", "photo-left", "sketch-left"]
"""How label map and photo share files: one each; one file, photo left; one file, sketch left."""


Parts = Literal["pairs", "labels", "photos"]
"""What is looked for: label maps with their photos, label maps alone, or photos alone."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one sample.

    Attributes:
        name: what it is called, unique within its split; parts are separated by slashes.
        label: file of the label map; where photos alone are asked for, the photo's.
        image: file of the photo, the same one for AB files; None where labels alone are asked for.
        instance: file of the instance map, where there is one.
        form: whether label map and photo have a file each, or which half of one file they are.
    """

    name: str
    label: Path
    image: Path | None = None
    instance: Path | None = None
    form: Form = "files"

    def read_label(self, label_space: LabelSpace, lines: Lines = "auto") -> Tensor:
        """Read the label map: `[H, W]` int64 canonical ids.

        Args:
            label_space: its classes.
            lines: which pixels of a line drawing are lines.

        Raises:
            DataError: the file cannot be read.
            LabelError: it holds ids or colours that the label space does not have.
        """
        if self.form == "files":
            return read_label(self.label, label_space, lines)
        picture, lossy = read_label_image(self.label)
        width = _half_width(picture.width, self.label)
        if self.form == "sketch-left":
            _check_two_classes(label_space)
            left = to_rgb(picture.crop((0, 0, width, picture.height)))
            return find_lines(left, lines, f"the left half of {self.label}", seam=SEAM)
        right = picture.crop((width, 0, picture.width, picture.height))
        return to_label(right, label_space, f"the right half of {self.label}", lossy=lossy)

    def read_image(self) -> Tensor:
        """Read the photo: `[3, H, W]` uint8 RGB.

        Raises:
            DataError: the file cannot be read, or the pair was made without photo.
        """
        if self.image is None:
            raise DataError(f"{self.label} comes without a photo; give a data set that has them")
        image = read_image(self.image)
        return image if self.form == "files" else _half(image, self.image, right=self.form == "sketch-left")


@dataclass
class Scan:
    """What lies in a data set, the right and the wrong.

    Attributes:
        pairs: complete pairs, sorted by name.
        unmatched: files without their partner.
        doubles: files that claim the same name as another.
        empty: folder of label maps or photos that holds none, while the other one holds some.
    """

    pairs: list[Pair] = field(default_factory=list)
    unmatched: list[Path] = field(default_factory=list)
    doubles: list[Path] = field(default_factory=list)
    empty: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One way in which files lie.

    Attributes:
        description: the way in a line.
        scan: finds the pairs of a split below a root; the last argument says which parts are wanted.
    """

    description: str
    scan: Callable[[Path, str | None, Parts], Scan]


def layout_names() -> list[str]:
    """Return the names of all layouts, `scenes` among them, which needs no files."""
    return sorted([*LAYOUTS, "scenes"])


def layout_descriptions() -> dict[str, str]:
    """Return a line on each layout, by name."""
    drawn = {"scenes": "no files: landscapes that are drawn while they are needed"}
    return dict(sorted({**{name: layout.description for name, layout in LAYOUTS.items()}, **drawn}.items()))


def scan(layout: str, root: Path, split: str | None, *, need_images: bool = True, need_labels: bool = True) -> Scan:
    """Find the pairs of a split and whatever is wrong among its files; no file is opened.

    Args:
        layout: name of the layout.
        root: the data set's folder; for labels alone also a folder of label maps, or one file.
        split: which part; None: all there is.
        need_images: False finds label maps alone and asks for no photos.
        need_labels: False finds photos alone and asks for no label maps.

    Raises:
        DataError: no such layout, folder or split.
    """
    parts: Parts = "labels" if not need_images else "pairs" if need_labels else "photos"
    if layout not in LAYOUTS:
        if layout == "scenes":
            raise DataError("Layout 'scenes' has no files; write some with `lab2pix data scenes` and use 'folder'")
        raise DataError(f"No layout is called '{layout}'{did_you_mean(layout, layout_names())}")
    if parts == "labels" and root.is_file():
        return Scan([Pair(root.stem, root, form=_FORMS.get(layout, "files"))])
    if not root.is_dir():
        what = "file or folder" if parts == "labels" else "folder"
        raise DataError(f"There is no {what} {root}; give the data set's root (data.root)")
    return LAYOUTS[layout].scan(root, split, parts)


def find_pairs(
    layout: str, root: Path | str, split: str | None, *, need_images: bool = True, need_labels: bool = True
) -> list[Pair]:
    """Find the pairs of a split, sorted by name.

    Args:
        layout: name of the layout.
        root: the data set's folder; for labels alone also a folder of label maps, or one file.
        split: which part; None: all there is.
        need_images: False finds label maps alone and asks for no photos.
        need_labels: False finds photos alone and asks for no label maps.

    Raises:
        DataError: no such layout, folder or split; nothing in it; a file without partner; two files of one name.
    """
    root = Path(root)
    found = scan(layout, root, split, need_images=need_images, need_labels=need_labels)
    if found.unmatched:
        verb = "has" if len(found.unmatched) == 1 else "have"
        why = f", because there are no pictures in {found.empty}" if found.empty is not None else ""
        raise DataError(
            f"{_listed(found.unmatched)} in {root} {verb} no partner in layout '{layout}'{why}; add the "
            "missing files or remove these (`lab2pix data check` lists them all)"
        )
    if found.doubles:
        raise DataError(f"{_listed(found.doubles)} in {root} share their name with another file; keep one of each")
    if not found.pairs:
        place = root if split is None else f"split '{split}' of {root}"
        what = "label maps" if not need_images else "pairs" if need_labels else "photos"
        raise DataError(f"Found no {what} of layout '{layout}' in {place}")
    return found.pairs


def _listed(paths: list[Path]) -> str:
    """Name the first few of some files."""
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


# --- matching -------------------------------------------------------------------------------------------------------


def _stems(
    folder: Path, found: Scan, ending: str = "", keep: Callable[[str], bool] = lambda suffix: True
) -> dict[str, Path]:
    """Return the pictures below a folder by their path in it, less suffix and ending; doubles go to `found`."""
    files: dict[str, Path] = {}
    start = len(str(folder)) + 1
    for path in find_images(folder):
        stem, suffix = os.path.splitext(str(path)[start:])  # noqa: PTH122 (speed on large sets)
        if not stem.endswith(ending) or not keep(suffix.lower()):
            continue
        stem = stem[: len(stem) - len(ending)].replace(os.sep, "/")
        if stem in files:
            found.doubles.append(path)
        else:
            files[stem] = path
    return files


def _match(
    folders: tuple[Path | None, Path | None, Path | None],
    endings: tuple[str, str, str] = ("", "", ""),
    prefix: str = "",
) -> Scan:
    """Match the pictures of three folders (photos, labels, instances) by name; None: the other part alone."""
    found = Scan()
    photos, labels, instances = (
        {} if folder is None else _stems(folder, found, ending) for folder, ending in zip(folders, endings, strict=True)
    )
    if folders[1] is None:
        found.pairs = [Pair(prefix + name, photo, photo) for name, photo in sorted(photos.items())]
        return found
    need_images = folders[0] is not None
    if need_images and bool(photos) != bool(labels):
        found.empty = folders[1] if photos else folders[0]
    for name, label in sorted(labels.items()):
        image = photos.pop(name, None)
        if need_images and image is None:
            found.unmatched.append(label)
        else:
            found.pairs.append(Pair(prefix + name, label, image, instances.get(name)))
    found.unmatched += [photos[name] for name in sorted(photos)]
    found.unmatched += [instances[name] for name in sorted(instances) if name not in labels]
    return found


def _subfolders(folder: Path) -> list[str]:
    """Return the names of a folder's visible sub-folders, sorted."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _part(root: Path, *parts: str | None) -> Path:
    """Return a folder below the root that must be there.

    Raises:
        DataError: it is not; the text names what lies beside it.
    """
    folder = root.joinpath(*(part for part in parts if part))
    if not folder.is_dir():
        beside = _subfolders(folder.parent)
        there = f"; beside it: {', '.join(beside[:8])}" if beside else ""
        raise DataError(
            f"There is no folder {folder}{there}; check data.root, the layout "
            "and the split (data.train_split, data.val_split; null is none)"
        )
    return folder


def _joined(scans: Iterable[Scan]) -> Scan:
    """Put what was found in several places into one."""
    whole = Scan()
    for found in scans:
        whole.pairs += found.pairs
        whole.unmatched += found.unmatched
        whole.doubles += found.doubles
        whole.empty = whole.empty or found.empty
    return whole


# --- the layouts ----------------------------------------------------------------------------------------------------


def _scan_folder(root: Path, split: str | None, parts: Parts) -> Scan:
    if parts == "labels" and not (root / "labels").is_dir():
        return _match((None, _part(root, split), None))
    if parts == "photos":
        return _match((_part(root, "images", split), None, None))
    images = _part(root, "images", split) if parts == "pairs" else None
    return _match((images, _part(root, "labels", split), root.joinpath("instances", split or "")))


def _scan_cityscapes(root: Path, split: str | None, parts: Parts) -> Scan:
    photos = None if parts == "labels" else _part(root, "leftImg8bit", split)
    labels = None if parts == "photos" else _part(root, "gtFine", split)
    return _match((photos, labels, labels), ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds"))


def _scan_coco_stuff(root: Path, split: str | None, parts: Parts) -> Scan:
    kinds = {"pairs": ("img", "label"), "labels": ("label",), "photos": ("img",)}[parts]

    def one(name: str, prefix: str = "") -> Scan:
        photos, labels = (root / f"{name}_{kind}" if kind in kinds else None for kind in ("img", "label"))
        return _match((photos, labels, None if labels is None else root / f"{name}_inst"), prefix=prefix)

    if split is not None:
        for kind in kinds:
            _part(root, f"{split}_{kind}")
        return one(split)
    endings = [f"_{kind}" for kind in kinds]
    names = {name.removesuffix(end) for name in _subfolders(root) for end in endings if name.endswith(end)}
    return _joined(one(name, f"{name}/") for name in sorted(names))


_ADE20K_FOLDERS = {"train": "training", "val": "validation"}


def _scan_ade20k(root: Path, split: str | None, parts: Parts) -> Scan:
    inner = root / "ADEChallengeData2016"
    root = inner if inner.is_dir() else root
    part = _ADE20K_FOLDERS.get(split or "", split)
    photos = None if parts == "labels" else _part(root, "images", part)
    return _match((photos, None if parts == "photos" else _part(root, "annotations", part), None))


def _scan_halves(form: Form) -> Callable[[Path, str | None, Parts], Scan]:
    def find(root: Path, split: str | None, parts: Parts) -> Scan:
        found = Scan()
        files = _stems(_part(root, split), found)
        found.pairs = [
            Pair(name, file, None if parts == "labels" else file, None, form) for name, file in sorted(files.items())
        ]
        return found

    return find


def _scan_facades_base(root: Path, split: str | None, parts: Parts) -> Scan:
    """Match the CMP base form, which keeps photos (.jpg) and label maps (.png) in one folder."""
    found = Scan()
    folder = _part(root, split)
    photos = {} if parts == "labels" else _stems(folder, found, keep=lambda suffix: suffix != ".png")
    if parts == "photos":
        found.pairs = [Pair(name, photo, photo) for name, photo in sorted(photos.items())]
        return found
    labels = _stems(folder, found, keep=lambda suffix: suffix == ".png")
    for name, label in sorted(labels.items()):
        image = photos.pop(name, None)
        if parts == "pairs" and image is None:
            found.unmatched.append(label)
        else:
            found.pairs.append(Pair(name, label, image))
    found.unmatched += [photos[name] for name in sorted(photos)]
    return found


_FORMS: dict[str, Form] = {"facades": "photo-left", "sketch": "sketch-left"}

LAYOUTS: dict[str, Layout] = {
    "folder": Layout(
        "images/[SPLIT/]NAME.* and labels/[SPLIT/]NAME.*, optional instances/[SPLIT/]NAME.*; sub-folders kept",
        _scan_folder,
    ),
    "cityscapes": Layout(
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png, *_instanceIds.png",
        _scan_cityscapes,
    ),
    "coco-stuff": Layout("SPLIT_img/NAME.jpg, SPLIT_label/NAME.png, optional SPLIT_inst/NAME.png", _scan_coco_stuff),
    "ade20k": Layout(
        "ADEChallengeData2016/images/{training,validation}/*.jpg and annotations/{training,validation}/*.png",
        _scan_ade20k,
    ),
    "facades": Layout("SPLIT/*.jpg, photo left and coloured labels right", _scan_halves("photo-left")),
    "facades-base": Layout("NAME.jpg and palette NAME.png in one folder", _scan_facades_base),
    "sketch": Layout("SPLIT/*.jpg, sketch left and photo right", _scan_halves("sketch-left")),
}
"""Every layout of files, by name."""


# --- halves of AB files ---------------------------------------------------------------------------------------------


def _half_width(width: int, path: Path) -> int:
    """Return half a width, or say that the file is no AB pair."""
    if width % 2:
        raise DataError(f"{path} is {width} pixels wide, which two halves cannot share; it is no AB pair")
    return width // 2


def _half(image: Tensor, path: Path, *, right: bool) -> Tensor:
    """Return one half `[3, H, W / 2]` of an AB picture `[3, H, W]`."""
    width = _half_width(image.shape[-1], path)
    return image[..., width:] if right else image[..., :width]


def _check_two_classes(label_space: LabelSpace) -> None:
    """Refuse a label space that drawings cannot be read with: they have lines and paper."""
    if label_space.num_classes != 2:
        raise LabelError(
            f"Sketches have two classes, blank and line, but label space '{label_space.name}' has "
            f"{label_space.num_classes}; use label space 'sketch'"
        )
