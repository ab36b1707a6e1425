"""Matching of images, photos and label maps by their names: paths below their folders, without suffix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab2pix.data.files import find_images
from lab2pix.data.formats import find_pairs
from lab2pix.data.pairs import Pair
from lab2pix.data.passed_over import likely_partners
from lab2pix.errors import DataError


@dataclass(frozen=True)
class Item:
    """The files of one sample.

    Attributes:
        name: their common name.
        generated: the images, one per sample set.
        real: its photo.
        label: its label map.
    """

    name: str
    generated: tuple[Path, ...]
    real: Pair | None = None
    label: Pair | None = None


@dataclass
class Matches:
    """The files of an evaluation.

    Attributes:
        items: samples, sorted by name.
        unmatched: names without a partner.
        loose: unpaired photos.
    """

    items: list[Item]
    unmatched: list[str] = field(default_factory=list)
    loose: dict[str, Pair] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Images per label map."""
        return len(self.items[0].generated)


def pictures_in(folder: Path, what: str) -> dict[str, Path]:
    """Return the images of a folder by name: the path below it without suffix.

    Raises:
        DataError: the folder does not exist or is empty, or two images have the same name.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the folder of the {what}")
    found: dict[str, Path] = {}
    for file in find_images(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {file} have the same name; keep one of the two")
        found[name] = file
    if not found:
        raise DataError(f"{folder} has no images; give the folder of the {what}")
    return found


def is_plain(folder: Path) -> bool:
    """Return whether a folder holds photos directly, rather than a dataset of format `folder`."""
    return not any((folder / name).is_dir() for name in ("images", "labels"))


def _pairs(folder: Path, format: str, split: str | None, *, labels: bool) -> dict[str, Pair]:
    if not labels and format == "folder" and is_plain(folder):
        return {name: Pair(name, file, file) for name, file in pictures_in(folder, "photos").items()}
    pairs = find_pairs(format, folder, split, need_images=not labels, need_labels=labels)
    return {pair.name: pair for pair in pairs}


def pair_files(
    generated: Path,
    real: Path | None,
    labels: Path | None,
    *,
    samples: int | None = None,
    format: str = "folder",
    split: str | None = None,
    unpaired: bool = False,
    allow_missing: bool = False,
) -> Matches:
    """Match images with photos and label maps.

    Args:
        generated: folder of images; with several samples `NAME_0`, `NAME_1`, ... as `lab2pix generate` writes them.
            A dataset's root that is also `real` or `labels` stands for its photos.
        real: folder of photos, or a dataset's root.
        labels: folder of label maps, or a dataset's root.
        samples: images per label map; None: as the names of the images tell.
        format: folder format of photos and label maps; see `lab2pix.utils.registry.DATASET_FORMATS`.
        split: part of the dataset; None: all of it.
        unpaired: whether the names of photos and images are unrelated.
        allow_missing: leave out names without a partner.

    Raises:
        DataError: an empty folder, or missing partners.
    """
    photos = {} if real is None else _pairs(real, format, split, labels=False)
    maps = {} if labels is None else _pairs(labels, format, split, labels=True)
    if generated.resolve() in [side.resolve() for side in (real, labels) if side is not None]:
        samples = samples or 1
        sets = _photos_of(generated, format, split, samples)
    else:
        files = pictures_in(generated, "generated images")
        samples = samples or count_samples(files, maps or ({} if unpaired else photos))
        sets = _by_sample(files, samples)
    sides: dict[str, Iterable[str]] = {str(generated): sets}
    if real is not None and not unpaired:
        sides[str(real)] = photos
    if labels is not None:
        sides[str(labels)] = maps
    shared = set.intersection(*(set(names) for names in sides.values()))
    unmatched = sorted(set().union(*sides.values()) - shared)
    incomplete = sorted(name for name, files in sets.items() if len(files) < samples)
    unmatched += [name for name in incomplete if name in shared]
    if unmatched and not allow_missing:
        raise DataError(_complaint(unmatched, sides, samples, incomplete))
    items = [
        Item(name, tuple(sets[name].values()), None if unpaired else photos.get(name), maps.get(name))
        for name in sorted(shared - set(incomplete))
    ]
    if not items:
        raise DataError(f"no name is in all of {', '.join(sides)}; give folders whose images have the same names")
    return Matches(items, unmatched, photos if unpaired else {})


def count_samples(names: Iterable[str], partners: Iterable[str]) -> int:
    """Return how many samples per label map the names of images tell: NAME_0, NAME_1, ... of partners called NAME.

    Args:
        names: names of the images.
        partners: names of label maps or photos.

    Returns:
        1 if an image has the name of a partner, or none is a numbered sample of one.
    """
    names, partners = set(names), set(partners)
    if names & partners:
        return 1
    split = (name.rpartition("_") for name in names)
    numbers = {int(number) for base, _, number in split if base in partners and number.isascii() and number.isdecimal()}
    return max(numbers, default=0) + 1


def _photos_of(root: Path, format: str, split: str | None, samples: int) -> dict[str, dict[int, Path]]:
    """Return a dataset's own photos as the images to evaluate, which gives the upper bound of a segmenter's scores."""
    photos = _pairs(root, format, split, labels=False)
    if samples > 1 or any(pair.form != "files" for pair in photos.values()):
        what = "has one photo for each label map" if samples > 1 else "keeps photo and label map in one file"
        raise DataError(f"{root} is both --generated and a dataset's root, but {what}; give a folder of images")
    return {name: {0: pair.image or pair.label} for name, pair in photos.items()}


def _by_sample(files: Mapping[str, Path], samples: int) -> dict[str, dict[int, Path]]:
    """Return the images of each label map by sample number."""
    if samples == 1:
        return {name: {0: file} for name, file in files.items()}
    sets: dict[str, dict[int, Path]] = {}
    for name, file in files.items():
        base, line, number = name.rpartition("_")
        if not line or not (number.isascii() and number.isdecimal()) or int(number) >= samples:
            raise DataError(
                f"{file} is none of {samples} samples (NAME_0 to NAME_{samples - 1}); give images that "
                f"`lab2pix generate --samples {samples}` made, or another number"
            )
        other = sets.setdefault(base, {}).setdefault(int(number), file)
        if other is not file:
            raise DataError(f"{other} and {file} are both sample {int(number)} of '{base}'; keep one of the two")
    return {name: dict(sorted(found.items())) for name, found in sets.items()}


def _complaint(unmatched: list[str], sides: Mapping[str, Iterable[str]], samples: int, incomplete: list[str]) -> str:
    first = unmatched[0]
    lacking = [folder for folder, names in sides.items() if first not in set(names)]
    where = f"is not in {' nor in '.join(lacking)}" if lacking else f"has fewer than {samples} samples"
    others = [name for name in unmatched[1:4] if name != first]
    more = (
        f" (and {len(unmatched) - 1} more: {', '.join(others)}{', ...' if len(unmatched) > 4 else ''})"
        if others
        else ""
    )
    hint = "" if incomplete and not lacking else "; if photos are not meant to pair, add --unpaired"
    mine, *others_of = (set(names) for names in sides.values())
    for names in others_of:
        for near in likely_partners(
            sorted(names - mine), sorted(mine - names), ("dataset's files", "generated images")
        ):
            hint = f"; {near}"
    return f"'{first}' {where}{more}; add what is missing, or --allow-missing to skip them{hint}"


def list_sha256(names: Iterable[str]) -> str:
    """Return a hash of a set of names, which may contain bytes that are not valid UTF-8."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()


def listed(names: Iterable[str]) -> dict[str, Any]:
    """Return the protocol's entry for a list of files: `count` and `list_sha256`."""
    names = list(names)
    return {"count": len(names), "list_sha256": list_sha256(names)}
