"""Dataset validation: every problem, how each file was read, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lab2pix.data.check_report import DatasetReport
from lab2pix.data.datasets import check_sizes, size_text
from lab2pix.data.files import ARRAY_SUFFIX, to_photo
from lab2pix.data.formats import SHARDS, Scan, scan, scan_sides
from lab2pix.data.image_file import ImageFile, is_transparent, open_image, transparency_notes
from lab2pix.data.label_maps import decode_instances
from lab2pix.data.pairs import Pair
from lab2pix.data.passed_over import passed_over
from lab2pix.data.shard_index import find_shard_pairs
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.decoding import LabelMap
from lab2pix.labels.space import Color, LabelSpace
from lab2pix.utils.threads import map_in_threads

_ROLES = ("label maps", "source images", "photos", "instance maps")

_DIM, _DARK = 4096, 16384  # levels of a photo of 16 bits up to which it has 12 bits, or may have 14


@dataclass
class _Finding:
    """Result of reading one sample.

    Attributes:
        pixels: pixels per canonical id.
        size: size of the label map or source image.
        kinds: what each file is, as role, kind and path.
        label: how the label map was read.
        transparent: roles of the files with transparent pixels.
        deepest: largest value of a source image of 16 bits.
        problems: categories, `notes` or lists of problems of the report, and messages.
    """

    pixels: Tensor | None = None
    size: str | None = None
    kinds: list[tuple[str, str, Path]] = field(default_factory=list)
    label: LabelMap | None = None
    transparent: list[str] = field(default_factory=list)
    deepest: int | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


def check_dataset(
    root: Path | str | None,
    format: str,
    label_space: LabelSpace | None,
    split: str | None = None,
    *,
    labels_root: Path | None = None,
    images_root: Path | None = None,
) -> DatasetReport:
    """Read all files of a dataset and report every problem.

    Args:
        root: folder of the dataset; None: the label maps or photos are in folders of their own.
        format: name of the format.
        label_space: expected classes of the label maps; None for source images (`data.input=images`) in their place.
        split: the split; None: all.
        labels_root: separate folder of label maps.
        images_root: separate folder of photos, which do not belong to the label maps.

    Raises:
        DataError: the format, folder or split does not exist, or there are no images.
    """
    found, paired = _scan(root, format, split, labels_root, images_root)
    places = [str(place) for place in (root, labels_root, images_root) if place is not None]
    where = " and ".join(places)
    report = DatasetReport(where, format, "" if label_space is None else label_space.name, paired, hints=found.hints)
    folder = None if root is None or format == SHARDS else Path(root)
    report.passed_over = passed_over(folder, found.looked)
    if not (found.pairs or found.unmatched or found.doubles or found.unreadable):
        passed = f"; passed over: {report.passed_over[0]}" if report.passed_over else ""
        raise DataError(f"Found no images of format '{format}' in {where}{passed}; check the folder and the format")
    report.unreadable = list(dict.fromkeys(found.unreadable))
    report.unmatched = [_relative(path, folder) for path in found.unmatched]
    report.doubles = [_relative(path, folder) for path in found.doubles]
    inputs = "source images" if label_space is None else "label maps"
    report.counts = dict(Counter(_part_name(pair, split, paired, inputs) for pair in found.pairs))
    tally = _Tally(report, folder, label_space)
    for finding in _examine_all(found.pairs, label_space):
        tally.add(finding)
    tally.close()
    return report


def _scan(
    root: Path | str | None, format: str, split: str | None, labels: Path | None, photos: Path | None
) -> tuple[Scan, bool]:
    """List the files, and tell whether they are pairs."""
    if labels is not None or photos is not None:
        return scan_sides(labels, photos, split), False
    if root is None:
        raise DataError("There is nothing to check; name the dataset's folder, or --labels-root and --images-root")
    if format == SHARDS:
        return Scan(find_shard_pairs(str(root), split)), True
    root = Path(root)
    if format != "unaligned":
        return scan(format, root, split), True
    sides = [scan(format, root, split, need_images=False), scan(format, root, split, need_labels=False)]
    return Scan.joined(sides), False


def _relative(path: Path, folder: Path | None) -> str:
    return str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else str(path)


def _part_name(pair: Pair, split: str | None, paired: bool, inputs: str) -> str:
    """Return the split or first sub-folder of a pair, or the side of unpaired data."""
    if not paired:
        return "photos" if pair.photo_only else inputs
    return split or (pair.name.split("/", 1)[0] if "/" in pair.name else "all")


class _Tally:
    """Adds findings up in a report."""

    def __init__(self, report: DatasetReport, folder: Path | None, space: LabelSpace | None) -> None:
        self.report, self.folder = report, folder
        self.names = [] if space is None else [*space.names, "unknown"][: space.num_channels]
        self.pixels = torch.zeros(len(self.names), dtype=torch.int64)
        self.sizes: Counter[str] = Counter()
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.first: dict[tuple[str, str], str] = {}
        self.readings: dict[str, tuple[int, str]] = {}
        self.palette: dict[int, tuple[Color, str]] = {}
        self.palettes_differ = ""
        self.transparent: dict[str, tuple[int, str]] = {}
        self.deepest: int | None = None

    def add(self, finding: _Finding) -> None:
        """Add what was found in one sample."""
        if finding.pixels is not None:
            self.pixels += finding.pixels
        if finding.size is not None:
            self.sizes[finding.size] += 1
        if finding.deepest is not None:
            self.deepest = max(finding.deepest, self.deepest or 0)
        for role, kind, path in finding.kinds:
            shown = _relative(path, self.folder)
            self.kinds[role, kind] += 1
            self.first.setdefault((role, kind), shown)
            if role in finding.transparent:
                count, example = self.transparent.get(role, (0, shown))
                self.transparent[role] = (count + 1, example)
            if role == "label maps" and finding.label is not None:
                self._add_label(finding.label, shown)
        for kind, text in finding.problems:
            getattr(self.report, kind).append(text)

    def _add_label(self, label: LabelMap, shown: str) -> None:
        how = "colors" if label.reading in ("colors", "palette colors") else label.reading.removeprefix("palette ")
        how = "ids" if how == "indices" else how
        count, example = self.readings.get(how, (0, shown))
        self.readings[how] = (count + 1, example)
        for index, color in label.palette.items() if label.reading == "palette indices" else ():
            before, other = self.palette.setdefault(index, (color, shown))
            if before != color and not self.palettes_differ:
                self.palettes_differ = f"index {index} is {before} in {other} and {color} in {shown}"

    def close(self) -> None:
        """Write sums and notes into the report."""
        report = self.report
        report.sizes = dict(self.sizes.most_common())
        for (role, kind), count in sorted(self.kinds.items(), key=lambda item: (_ROLES.index(item[0][0]), -item[1])):
            if report.kinds.setdefault(role, {}):
                report.examples[f"{role}: {kind}"] = self.first[role, kind]
            report.kinds[role][kind] = count
        shares = (self.pixels.double() / max(1, int(self.pixels.sum()))).tolist()
        report.class_shares = dict(zip(self.names, shares, strict=True))
        report.notes += self._notes()

    def _notes(self) -> Iterator[str]:
        if len(self.readings) > 1:
            how = " and ".join(f"{count} as {how} (such as {name})" for how, (count, name) in self.readings.items())
            yield f"label maps are read in two ways, {how}; see that both are what you mean"
        if self.palettes_differ:
            yield (
                f"palettes differ, but their indices are read as ids: {self.palettes_differ}; give the classes their "
                "colors in the label space, or save all label maps with one palette"
            )
        if self.deepest is not None and self.deepest < _DARK:
            yield (
                f"source images have 16 bits, but their largest value is {self.deepest}, as of "
                f"{self.deepest.bit_length()} bits; set data.source.range to the values that mean -1 and 1"
            )
        yield from transparency_notes(self.transparent, "trained on", "data.alpha")


def _examine_all(pairs: Sequence[Pair], label_space: LabelSpace | None) -> Iterator[_Finding]:
    """Read pairs in parallel threads and yield the findings in order."""
    console = Console(stderr=True)
    findings = map_in_threads(lambda pair: _examine(pair, label_space), pairs)
    yield from track(findings, "Reading", len(pairs), console=console, transient=True, disable=not console.is_terminal)


def _examine(pair: Pair, label_space: LabelSpace | None) -> _Finding:
    """Read all files of a pair."""
    finding, label = _Finding(), None
    if not pair.photo_only:
        label = _examine_source(pair, finding) if label_space is None else _examine_label(pair, label_space, finding)
    for role, path in (("photos", pair.image), ("instance maps", pair.instance)):
        if path is None:
            continue
        try:
            other = _read_photo(pair, path, finding) if role == "photos" else _read_instances(pair, path, finding)
        except DataError as error:
            finding.problems.append(("unreadable", str(error)))
            continue
        try:
            if label is not None:
                check_sizes(pair, label, other, role.removesuffix("s"))
        except DataError as error:
            finding.problems.append(("sizes_disagree", str(error)))
    if len(finding.problems) > 1:
        finding.problems = list(dict.fromkeys(finding.problems))  # both halves of an AB file report the same error
    return finding


def _examine_label(pair: Pair, label_space: LabelSpace, finding: _Finding) -> Tensor | None:
    try:
        file = open_image(pair.source("label"))
        found = pair.decode_label(label_space, file=file)
    except LabelError as error:
        finding.problems.append(("wrong_labels", str(error)))
        return None
    except DataError as error:
        finding.problems.append(("unreadable", str(error)))
        return None
    finding.label, finding.size = found, size_text(found.ids)
    finding.pixels = torch.bincount(found.ids.flatten(), minlength=label_space.num_channels)
    finding.kinds.append(("label maps", f"{found.reading} ({file.describe()})", pair.label))
    if found.reading != "lines" and is_transparent(pair.label_part(file)[0].image):
        finding.transparent.append("label maps")
    return found.ids


def _examine_source(pair: Pair, finding: _Finding) -> Tensor | None:
    try:
        source = pair.read_source(None, None)
        if pair.label.suffix.lower() == ARRAY_SUFFIX:
            kind = f"NumPy array, {source.shape[0]} channels"
            deep, colors = np.load(pair.source("label"), allow_pickle=False).dtype == np.uint16, source
        else:
            file, _ = pair.label_part(open_image(pair.source("label")))
            kind, deep = file.describe(), file.bits == 16
            colors = source[:-1] if len(source) in (2, 4) else source
            if is_transparent(file.image):
                finding.transparent.append("source images")
    except DataError as error:
        finding.problems.append(("unreadable", str(error)))
        return None
    finding.size = size_text(source)
    finding.kinds.append(("source images", kind, pair.label))
    finding.deepest = round((float(colors.max()) + 1) * 32767.5) if deep else None
    return source


def _read_photo(pair: Pair, path: Path, finding: _Finding) -> Tensor:
    file, where = pair.photo_part(open_image(pair.source("image")))
    photo = to_photo(file, where)
    finding.kinds.append(("photos", file.describe(), path))
    if is_transparent(file.image):
        finding.transparent.append("photos")
    if 0 < (most := _largest(file, photo)) < _DARK:
        text = f"{where} has 16 bits, but its largest value is {most}, as of {most.bit_length()} bits; scale them to "
        kind, unless = ("dim", "") if most < _DIM else ("notes", ", unless the photo is dark")
        finding.problems.append((kind, f"{text}0 to 65535, or save it with 8 bits{unless}"))
    return photo


def _read_instances(pair: Pair, path: Path, finding: _Finding) -> Tensor:
    file = open_image(pair.source("instance"))
    finding.kinds.append(("instance maps", file.describe(), path))
    return decode_instances(file, path)


def _largest(file: ImageFile, photo: Tensor) -> int:
    """Return the largest value of a photo of 16 bits per channel; 0 for others and where that is clearly bright."""
    if file.bits != 16 or int(photo.max()) >= _DARK // 256:
        return 0
    if file.wide is None:
        return int(np.asarray(file.image).max())
    return int(file.wide[..., : 1 if file.wide.shape[2] == 2 else 3].max())  # without alpha
