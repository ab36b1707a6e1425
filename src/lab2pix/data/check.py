"""Dataset validation: every problem, how each file was read, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

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
from lab2pix.utils.text import first_few
from lab2pix.utils.threads import map_in_threads

_SHOWN = 20  # classes, and lines per problem, in a text report; JSON has all

_KINDS = {
    "unmatched": "without partner",
    "doubles": "sharing a name with another file",
    "unreadable": "unreadable",
    "wrong_labels": "with ids or colors outside the label space",
    "sizes_disagree": "of another size than their partner",
    "dim": "read as nearly black",
}

_ROLES = ("label maps", "source images", "photos", "instance maps")

_DIM, _DARK = 4096, 16384  # levels of a photo of 16 bits up to which it has 12 bits, or may have 14


@dataclass
class DatasetReport:
    """Result of `check_dataset`.

    Attributes:
        root: folder of the dataset.
        format: name of the format.
        label_space: name of the label space; empty for photos alone.
        paired: whether label maps and photos are pairs.
        counts: pairs per split (or first sub-folder); label maps and photos of unpaired data.
        sizes: label maps or source images per size, height x width.
        kinds: number of files by what they are, for `label maps`, `source images`, `photos`, `instance maps`.
        examples: one file of each kind that is not the most frequent one.
        class_shares: fraction of all readable pixels per class, including `unknown` if the label space has it.
        notes: what may be wrong: differences within the set, transparency.
        passed_over: files and folders that do not count, with the likely cure.
        hints: what may be wrong with the names of files without a partner.
        unmatched: files without a partner.
        doubles: files that share their name with another file.
        unreadable: one message per file that is damaged, truncated or not an image.
        wrong_labels: one message per label map with ids or colors outside the label space.
        sizes_disagree: one message per pair whose parts differ in size.
        dim: one message per photo of 16 bits that uses a part of them alone.
    """

    root: str
    format: str
    label_space: str
    paired: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    class_shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    wrong_labels: list[str] = field(default_factory=list)
    sizes_disagree: list[str] = field(default_factory=list)
    dim: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problems were found."""
        return not any(getattr(self, kind) for kind in _KINDS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        """Return the report as text."""
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        lines = [
            f"{self.root}: {sum(self.counts.values())} {'pairs' if self.paired else 'files'}, format '{self.format}'"
            + (f", label space '{self.label_space}'" if self.label_space else ""),
            f"  {'pairs' if self.paired else 'files'}    {counts}",
        ]
        sizes = first_few([f"{size} ({count})" for size, count in self.sizes.items()], 8)
        lines += [f"  sizes    {sizes}, height x width"] if sizes else []
        for role, kinds in self.kinds.items():
            for kind, count in kinds.items():
                example = self.examples.get(f"{role}: {kind}")
                lines.append(f"  {count:7d}  {role}: {kind}{'' if example is None else f', such as {example}'}")
        present = sorted(((share, name) for name, share in self.class_shares.items() if share), reverse=True)
        lines += [f"  {share:7.2%}  {name}" for share, name in present[:_SHOWN]]
        if len(present) > _SHOWN:
            lines.append(f"  {sum(share for share, _ in present[_SHOWN:]):7.2%}  {len(present) - _SHOWN} more classes")
        absent = [name for name, share in self.class_shares.items() if not share]
        if absent:
            lines.append(f"  never    {first_few(absent, 12)}")
        for kind, words in _KINDS.items():
            found = getattr(self, kind)
            if found:
                lines += ["", f"{len(found)} {words}:", *_listed(found)]
                lines += [f"  {hint}" for hint in self.hints] if kind == "unmatched" else []
        for title, found in (("passed over:", self.passed_over), ("worth a look:", self.notes)):
            lines += ["", title, *_listed(found)] if found else []
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        if not self.ok:
            return "Mend these before training."
        if self.notes or self.passed_over:
            return "No errors; see above what was passed over or is worth a look."
        return "Everything is in order."


def _listed(texts: Sequence[str]) -> list[str]:
    more = [f"  ... and {len(texts) - _SHOWN} more (--json lists all)"] if len(texts) > _SHOWN else []
    return [*(f"  {text}" for text in texts[:_SHOWN]), *more]


@dataclass
class _Finding:
    """Result of reading one sample.

    Attributes:
        pixels: pixels per canonical id.
        size: size of the label map or source image.
        kinds: what each file is, as role, kind and path.
        label: how the label map was read.
        transparent: roles of the files with transparent pixels.
        problems: categories, `notes` or lists of problems of the report, and messages.
    """

    pixels: Tensor | None = None
    size: str | None = None
    kinds: list[tuple[str, str, Path]] = field(default_factory=list)
    label: LabelMap | None = None
    transparent: list[str] = field(default_factory=list)
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
    if not (found.pairs or found.unmatched or found.doubles):
        passed = f"; passed over: {report.passed_over[0]}" if report.passed_over else ""
        raise DataError(f"Found no images of format '{format}' in {where}{passed}; check the folder and the format")
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

    def add(self, finding: _Finding) -> None:
        """Add what was found in one sample."""
        if finding.pixels is not None:
            self.pixels += finding.pixels
        if finding.size is not None:
            self.sizes[finding.size] += 1
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
    if is_transparent(file.image):
        finding.transparent.append("label maps")
    return found.ids


def _examine_source(pair: Pair, finding: _Finding) -> Tensor | None:
    try:
        source = pair.read_source(None, None)
        array = f"NumPy array, {source.shape[0]} channels"
        kind = array if pair.label.suffix.lower() == ARRAY_SUFFIX else open_image(pair.source("label")).describe()
    except DataError as error:
        finding.problems.append(("unreadable", str(error)))
        return None
    finding.size = size_text(source)
    finding.kinds.append(("source images", kind, pair.label))
    return source


def _read_photo(pair: Pair, path: Path, finding: _Finding) -> Tensor:
    if pair.form != "files":
        return pair.read_image()
    file = open_image(pair.source("image"))
    photo = to_photo(file, path)
    finding.kinds.append(("photos", file.describe(), path))
    if is_transparent(file.image):
        finding.transparent.append("photos")
    if 0 < (most := _largest(file, photo)) < _DARK:
        text = f"{path} has 16 bits, but its largest value is {most}, as of {most.bit_length()} bits; scale them to "
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
