"""Dataset formats: functions that list and match the files of pairs (label map, photo, instance map).

Paths stay strings for speed: 120,000 pairs are found in a second or two.
"""

from __future__ import annotations

import logging
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, cast

from lab2pix.data.files import ARRAY_SUFFIX, list_inputs, path_prefix
from lab2pix.data.pairs import PairList, PairStorage, Row
from lab2pix.data.passed_over import Looked, likely_partners
from lab2pix.errors import DataError, did_you_mean
from lab2pix.utils.registry import DATASET_FORMATS
from lab2pix.utils.text import first_few

_LOG = logging.getLogger(__name__)

SHARDS = "shards"
"""Format of tar shards, whose samples `shard_index.find_shard_pairs` finds."""

Parts = Literal["pairs", "labels", "photos"]
"""Parts to find: label maps with their photos, only label maps, or only photos."""


@dataclass
class Scan:
    """Result of scanning a dataset.

    Attributes:
        pairs: complete pairs, sorted by name.
        unmatched: files without a partner.
        doubles: files that share their name with another file.
        unreadable: one message per folder that cannot be listed.
        empty: folder of label maps or photos that is empty while the other one is not.
        looked: folders that were looked through.
        hints: what may be wrong with the names of unmatched files.
    """

    pairs: PairList = field(default_factory=PairList)
    unmatched: list[Path] = field(default_factory=list)
    doubles: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    empty: Path | None = None
    looked: list[Looked] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @classmethod
    def joined(cls, scans: Iterable[Scan]) -> Scan:
        """Merge scans into one."""
        scans = list(scans)
        whole = cls(PairList(chain.from_iterable(found.pairs.rows() for found in scans)))
        for found in scans:
            whole.unmatched += found.unmatched
            whole.doubles += found.doubles
            whole.unreadable += found.unreadable
            whole.empty = whole.empty or found.empty
            whole.looked += found.looked
            whole.hints += found.hints
        return whole


def scan(format: str, root: Path, split: str | None, *, need_images: bool = True, need_labels: bool = True) -> Scan:
    """Find the pairs and the unmatched or duplicate files of a split, without opening files.

    Args:
        format: name of the format.
        root: folder of the dataset; if `need_images` is False also a folder of label maps, or one file.
        split: the split; None: all.
        need_images: False finds label maps without photos.
        need_labels: False finds photos without label maps.

    Raises:
        DataError: the format, folder or split does not exist.
    """
    parts: Parts = "labels" if not need_images else "pairs" if need_labels else "photos"
    if format not in DATASET_FORMATS:
        raise DataError(f"No format is called '{format}'{did_you_mean(format, DATASET_FORMATS)}")
    if format == SHARDS:
        raise DataError(
            f"Format '{SHARDS}' is read by train, evaluate of a run, data check and data preview alone; unpack "
            f"the tar files in {root} into a folder, and name its format"
        )
    finder = DATASET_FORMATS[format].scan
    if finder is None:
        raise DataError(f"Format '{format}' has no files; write some with `lab2pix data scenes` and use 'folder'")
    if parts == "labels" and root.is_file():
        return Scan(PairList([Row(root.stem, str(root), form=_FORMS.get(format, "files"))]))
    if not root.is_dir():
        if parts == "labels":
            raise DataError(f"There is no file or folder {root}; give a label map or a folder of label maps")
        raise DataError(f"There is no folder {root}; give the dataset's root (data.root)")
    return cast(Scan, pkgutil.resolve_name(finder)(root, split, parts))


def find_pairs(
    format: str, root: Path | str, split: str | None, *, need_images: bool = True, need_labels: bool = True
) -> PairList:
    """Find the pairs of a split, sorted by name.

    The arguments are those of `scan`.

    Raises:
        DataError: the format, folder or split does not exist or is empty, or a file has no partner or a duplicate name.
    """
    root = Path(root)
    found = scan(format, root, split, need_images=need_images, need_labels=need_labels)
    if found.unreadable:
        raise DataError(found.unreadable[0])
    if found.unmatched:
        verb = "has" if len(found.unmatched) == 1 else "have"
        why = f", because there are no images in {found.empty}" if found.empty is not None else ""
        hint = f" ({found.hints[0]})" if found.hints else ""
        names = first_few([path.name for path in found.unmatched], 5)
        raise DataError(
            f"{names} in {root} {verb} no partner in format '{format}'{why}{hint}; add the "
            "missing files or remove these (`lab2pix data check` lists them all)"
        )
    if found.doubles:
        names = first_few([path.name for path in found.doubles], 5)
        raise DataError(f"{names} in {root} share their name with another file; keep one of each")
    if not found.pairs:
        place = root if split is None else f"split '{split}' of {root}"
        what = "label maps" if not need_images else "pairs" if need_labels else "photos"
        raise DataError(f"Found no {what} of format '{format}' in {place}")
    _LOG.info("found %d samples of format '%s' in %s", len(found.pairs), format, root)
    return found.pairs


def scan_sides(labels: Path | None, photos: Path | None, split: str | None) -> Scan:
    """List label maps and photos that are in separate folders and do not form pairs.

    Args:
        labels: folder of the label maps; None: none.
        photos: folder of the photos; None: none.
        split: sub-folder of both; None: all.

    Raises:
        DataError: a folder does not exist.
    """
    sides = [_match((None, _part(labels, split), None))] if labels is not None else []
    return Scan.joined([*sides, *([_match((_part(photos, split), None, None))] if photos is not None else [])])


# --- matching -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Images of one part of the pairs; the path of a pair's image is `folder / (name + ending + suffix)`.

    Attributes:
        folder: path prefix.
        ending: common end of the file names, before the suffix.
        suffixes: suffix by pair name.
    """

    folder: str
    ending: str
    suffixes: dict[str, str]

    def path(self, name: str) -> str:
        """Return the path for a pair name, or an empty string."""
        suffix = self.suffixes.get(name)
        return "" if suffix is None else f"{self.folder}{name}{self.ending}{suffix}"


_NOTHING = _Part("", "", {})


def _list_part(
    folder: Path | None, found: Scan, ending: str = "", keep: Callable[[str], bool] = lambda suffix: True
) -> _Part:
    """List the images of a folder by relative path without ending and suffix; duplicates are added to `found`."""
    if folder is None:
        return _NOTHING
    part = _Part(path_prefix(folder), ending, {})
    arrays = True
    for stem, suffix in list_inputs(folder, found.unreadable.append):
        if not stem.endswith(ending) or not keep(suffix.lower()):
            continue
        name = stem[: len(stem) - len(ending)]
        if name in part.suffixes:
            found.doubles.append(folder / f"{stem}{suffix}")
        else:
            part.suffixes[name] = suffix
        arrays = arrays and suffix == ARRAY_SUFFIX
    found.looked.append(Looked(folder, ending, keep, part.suffixes, arrays and bool(part.suffixes)))
    return part


def _match(
    folders: tuple[Path | None, Path | None, Path | None],
    endings: tuple[str, str, str] = ("", "", ""),
    prefix: str = "",
) -> Scan:
    """Match the images of three folders (photos, labels, instances) by name; a folder of None is left out."""
    found = Scan()
    photos, labels, instances = (
        _list_part(folder, found, ending) for folder, ending in zip(folders, endings, strict=True)
    )
    if folders[1] is None:
        found.pairs = _photos_alone(photos, prefix)
        return found
    need_images = folders[0] is not None
    if need_images and bool(photos.suffixes) != bool(labels.suffixes):
        found.empty = folders[1] if photos.suffixes else folders[0]
    found.pairs = PairList(
        Row(prefix + name, labels.path(name), photos.path(name), instances.path(name))
        for name in sorted(labels.suffixes)
        if not need_images or name in photos.suffixes
    )
    if need_images:
        _note_unmatched(found, photos, labels)
    found.unmatched += _without(instances, labels)
    return found


def _note_unmatched(found: Scan, photos: _Part, labels: _Part) -> None:
    """Add the label maps and photos without a partner, and what may be wrong with their names."""
    found.unmatched += [*_without(labels, photos), *_without(photos, labels)]
    lonely = photos.suffixes.keys() - labels.suffixes.keys(), labels.suffixes.keys() - photos.suffixes.keys()
    found.hints += likely_partners(sorted(lonely[0]), sorted(lonely[1]))


def _photos_alone(photos: _Part, prefix: str = "") -> PairList:
    files = ((name, photos.path(name)) for name in sorted(photos.suffixes))
    return PairList(Row(prefix + name, file, file) for name, file in files)


def _without(part: _Part, other: _Part) -> list[Path]:
    """Return the files of a part whose names are missing in another part."""
    return [Path(part.path(name)) for name in sorted(part.suffixes.keys() - other.suffixes.keys())]


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _part(root: Path, *parts: str | None) -> Path:
    """Return an existing folder below the root.

    Raises:
        DataError: it does not exist; the message lists its siblings.
    """
    folder = root.joinpath(*(part for part in parts if part))
    if not folder.is_dir():
        others = _subfolders(folder.parent)
        there = f"; other folders there: {', '.join(others[:8])}" if others else ""
        raise DataError(
            f"There is no folder {folder}{there}; check data.root, the format "
            "and the split (data.train_split, data.val_split; null is none)"
        )
    return folder


# --- the formats ----------------------------------------------------------------------------------------------------


def has_sources(root: Path) -> bool:
    """Return whether a dataset of format `folder` has images to generate from, `sources`, instead of label maps."""
    return (root / "sources").is_dir() and not (root / "labels").is_dir()


def scan_folder(root: Path, split: str | None, parts: Parts) -> Scan:
    inputs = "sources" if has_sources(root) else "labels"
    if parts == "labels" and not (root / inputs).is_dir():
        return _match((None, _part(root, split), None))
    if parts == "photos":
        return _match((_part(root, "images", split), None, None))
    images = _part(root, "images", split) if parts == "pairs" else None
    return _match((images, _part(root, inputs, split), root.joinpath("instances", split or "")))


def scan_cityscapes(root: Path, split: str | None, parts: Parts) -> Scan:
    photos = None if parts == "labels" else _part(root, "leftImg8bit", split)
    labels = None if parts == "photos" else _part(root, "gtFine", split)
    return _match((photos, labels, labels), ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds"))


def scan_coco_stuff(root: Path, split: str | None, parts: Parts) -> Scan:
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
    return Scan.joined(one(name, f"{name}/") for name in sorted(names))


_ADE20K_FOLDERS = {"train": "training", "val": "validation"}


def scan_ade20k(root: Path, split: str | None, parts: Parts) -> Scan:
    inner = root / "ADEChallengeData2016"
    root = inner if inner.is_dir() else root
    part = _ADE20K_FOLDERS.get(split or "", split)
    photos = None if parts == "labels" else _part(root, "images", part)
    return _match((photos, None if parts == "photos" else _part(root, "annotations", part), None))


def _scan_halves(form: PairStorage) -> Callable[[Path, str | None, Parts], Scan]:
    def find(root: Path, split: str | None, parts: Parts) -> Scan:
        found = Scan()
        both = _list_part(_part(root, split), found)
        files = ((name, both.path(name)) for name in sorted(both.suffixes))
        found.pairs = PairList(Row(name, file, "" if parts == "labels" else file, "", form) for name, file in files)
        return found

    return find


def scan_facades_base(root: Path, split: str | None, parts: Parts) -> Scan:
    """Match the format of the CMP base set: photos (.jpg) and label maps (.png) in one folder."""
    found = Scan()
    folder = _part(root, split)
    photos = _NOTHING if parts == "labels" else _list_part(folder, found, keep=lambda suffix: suffix != ".png")
    if parts == "photos":
        found.pairs = _photos_alone(photos)
        return found
    labels = _list_part(folder, found, keep=lambda suffix: suffix == ".png")
    found.pairs = PairList(
        Row(name, labels.path(name), photos.path(name))
        for name in sorted(labels.suffixes)
        if parts == "labels" or name in photos.suffixes
    )
    if parts == "pairs":
        _note_unmatched(found, photos, labels)
    return found


def scan_unaligned(root: Path, split: str | None, parts: Parts) -> Scan:
    """List the files of one domain, as in CycleGAN's datasets: inputs in A, photos in B."""
    if parts == "pairs":
        raise DataError(f"Format 'unaligned' has no pairs in {root}; choose an unpaired method such as cyclegan")
    domain = "A" if parts == "labels" else "B"
    folders = [f"{split}{domain}"] if split else [name for name in _subfolders(root) if name.endswith(domain)]
    found = []
    for name in folders:
        one, prefix = _part(root, name), "" if split else f"{name}/"
        found.append(_match((None, one, None) if parts == "labels" else (one, None, None), prefix=prefix))
    return Scan.joined(found)


_FORMS: dict[str, PairStorage] = {
    **{"ab": "input-left", "ba": "photo-left"},
    **{"facades": "photo-left", "sketch": "sketch-left"},
}

scan_facades, scan_sketches = _scan_halves("photo-left"), _scan_halves("sketch-left")
scan_ab, scan_ba = _scan_halves("input-left"), _scan_halves("photo-left")
