"""Dataset validation and contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from lab2pix.data.datasets import check_sizes, size_text
from lab2pix.data.formats import find_pairs, scan
from lab2pix.data.label_maps import read_instances
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image
from lab2pix.errors import DataError, LabelError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import output_errors
from lab2pix.utils.text import first_few
from lab2pix.utils.threads import available_processors

__all__ = ["DatasetReport", "check_dataset", "contact_sheet", "draw_sheet"]


_SHOWN = 20
"""Maximum number of classes and of lines per problem in a text report; JSON has all."""

_KINDS = {
    "unmatched": "without partner",
    "doubles": "sharing a name with another file",
    "unreadable": "unreadable",
    "wrong_labels": "with ids or colors outside the label space",
    "sizes_disagree": "of another size than their partner",
}


@dataclass
class DatasetReport:
    """Result of `check_dataset`.

    Attributes:
        root: folder of the dataset.
        format: name of the format.
        label_space: name of the label space.
        counts: pairs per split (or first sub-folder).
        sizes: label maps per size, `WxH`.
        class_shares: fraction of all readable pixels per class, including `unknown` if the label space has it.
        unmatched: files without a partner.
        doubles: files that share their name with another file.
        unreadable: one message per file that is damaged, truncated or not an image.
        wrong_labels: one message per label map with ids or colors outside the label space.
        sizes_disagree: one message per pair whose parts differ in size.
    """

    root: str
    format: str
    label_space: str
    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    class_shares: dict[str, float] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    wrong_labels: list[str] = field(default_factory=list)
    sizes_disagree: list[str] = field(default_factory=list)

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
            f"{self.root}: {sum(self.counts.values())} pairs, format '{self.format}', label space '{self.label_space}'",
            f"  pairs    {counts}",
            f"  sizes    {first_few([f'{size} ({count})' for size, count in self.sizes.items()], 8)}",
        ]
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
                lines += ["", f"{len(found)} {words}:", *(f"  {text}" for text in found[:_SHOWN])]
                lines += [f"  ... and {len(found) - _SHOWN} more (--json lists all)"] if len(found) > _SHOWN else []
        return "\n".join([*lines, "", "Everything is in order." if self.ok else "Mend these before training."])


@dataclass
class _Finding:
    """Result of reading one pair: pixels per canonical id, size of the label map, and (category, message) problems."""

    pixels: Tensor | None = None
    size: str | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


def check_dataset(root: Path | str, format: str, label_space: LabelSpace, split: str | None = None) -> DatasetReport:
    """Read all files of a dataset and report every problem.

    Without `split`, all splits are read.

    Raises:
        DataError: the format, folder or split does not exist, or there are no images.
    """
    root = Path(root)
    found = scan(format, root, split)
    if not (found.pairs or found.unmatched or found.doubles):
        raise DataError(f"Found no images of format '{format}' in {root}; check the folder and the format")
    report = DatasetReport(str(root), format, label_space.name)
    report.unmatched = [str(path.relative_to(root)) for path in found.unmatched]
    report.doubles = [str(path.relative_to(root)) for path in found.doubles]
    report.counts = dict(Counter(split or _first_part(pair.name) for pair in found.pairs))
    pixels = torch.zeros(label_space.num_channels, dtype=torch.int64)
    sizes: Counter[str] = Counter()
    for finding in _examine_all(found.pairs, label_space):
        if finding.pixels is not None and finding.size is not None:
            pixels += finding.pixels
            sizes[finding.size] += 1
        for kind, text in finding.problems:
            getattr(report, kind).append(text)
    report.sizes = dict(sizes.most_common())
    names = [*label_space.names, "unknown"][: label_space.num_channels]
    shares = (pixels.double() / max(1, int(pixels.sum()))).tolist()
    report.class_shares = dict(zip(names, shares, strict=True))
    return report


def contact_sheet(
    root: Path | str,
    format: str,
    label_space: LabelSpace,
    out: Path | str,
    *,
    split: str | None = None,
    count: int = 8,
    overwrite: bool = False,
) -> Path:
    """Write a contact sheet (PNG) of evenly spaced pairs of a dataset: photo, colored labels, overlay.

    At most `count` pairs are shown; the other arguments are those of `check_dataset`.

    Returns:
        The path of the PNG.

    Raises:
        DataError: a pair is incomplete or unreadable.
        LabelError: a label map has ids or colors outside the label space.
        OutputError: the PNG exists, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; choose another name, or remove it")
    pairs = find_pairs(format, root, split)
    count = min(count, len(pairs))
    sheet = draw_sheet([pairs[index * len(pairs) // count] for index in range(count)], label_space)
    with output_errors(out, "choose another place"):
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, format="PNG")
    return out


def _examine_all(pairs: Sequence[Pair], label_space: LabelSpace) -> Iterator[_Finding]:
    """Read pairs in parallel threads and yield the findings in order."""
    console = Console(stderr=True)
    with ThreadPoolExecutor(min(8, available_processors())) as pool:

        def findings() -> Iterator[_Finding]:
            for start in range(0, len(pairs), 256):  # in chunks, to bound the memory of pending results
                yield from pool.map(lambda pair: _examine(pair, label_space), pairs[start : start + 256])

        yield from track(
            findings(), "Reading", len(pairs), console=console, transient=True, disable=not console.is_terminal
        )


def _examine(pair: Pair, label_space: LabelSpace) -> _Finding:
    """Read all files of a pair."""
    finding, label = _Finding(), None
    try:
        label = pair.read_label(label_space)
        finding.pixels = torch.bincount(label.flatten(), minlength=label_space.num_channels)
        finding.size = size_text(label)
    except LabelError as error:
        finding.problems.append(("wrong_labels", str(error)))
    except DataError as error:
        finding.problems.append(("unreadable", str(error)))
    for what, path in (("photo", pair.image), ("instance map", pair.instance)):
        if path is None:
            continue
        try:
            other = pair.read_image() if what == "photo" else read_instances(path)
        except DataError as error:
            finding.problems.append(("unreadable", str(error)))
            continue
        try:
            if label is not None:
                check_sizes(pair, label, other, what)
        except DataError as error:
            finding.problems.append(("sizes_disagree", str(error)))
    if len(finding.problems) > 1:
        finding.problems = list(dict.fromkeys(finding.problems))  # both halves of an AB file report the same error
    return finding


def _first_part(name: str) -> str:
    """Return the first folder in the name of a pair: its split or sub-folder."""
    return name.split("/", 1)[0] if "/" in name else "all"


_TILE = 300
"""Longest side of a tile in pixels."""
_GAP = 10
_LINE = 20
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 40), (130, 130, 130)
_OVERLAY = 0.55
"""Opacity of the class colors in the overlay."""


def draw_sheet(pairs: Sequence[Pair], label_space: LabelSpace) -> Image.Image:
    """Draw a contact sheet: a named row per pair (photo, labels, overlay) and a legend of the classes.

    Raises:
        DataError: a pair is unreadable, or its parts differ in size.
        LabelError: a label map has ids or colors outside the label space.
    """
    rows, present = [], torch.zeros(label_space.num_channels, dtype=torch.bool)
    for pair in pairs:
        label, image = pair.read_label(label_space), pair.read_image()
        check_sizes(pair, label, image)
        present[torch.unique(label)] = True
        rows.append((pair.name, _tiles(label, image, label_space)))
    width = 3 * max(tiles[0].width for _, tiles in rows) + 4 * _GAP
    legend = _legend(present, label_space, width - 2 * _GAP)
    height = sum(tiles[0].height + _LINE + _GAP for _, tiles in rows) + legend.height + 2 * _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, top = ImageDraw.Draw(sheet), _GAP
    for name, tiles in rows:
        pen.text((_GAP, top), name, fill=_FAINT, font=ImageFont.load_default(13))
        for place, tile in enumerate(tiles):
            sheet.paste(tile, (_GAP + place * (width - _GAP) // 3, top + _LINE))
        top += tiles[0].height + _LINE + _GAP
    sheet.paste(legend, (_GAP, top))
    return sheet


def _tiles(label: Tensor, image: Tensor, label_space: LabelSpace) -> list[Image.Image]:
    """Return photo, colored labels and overlay of a pair, at most `_TILE` pixels per side."""
    scale = _TILE / max(label.shape)
    size = (max(1, round(label.shape[0] * scale)), max(1, round(label.shape[1] * scale)))
    photo = resize_image(image, size)
    colors = label_space.to_colors(resize_label(label, size, label_space))
    mixed = photo.float().lerp(colors.float(), _OVERLAY).round().to(torch.uint8)
    return [to_pil_image(part) for part in (photo, colors, mixed)]


def _legend(present: Tensor, label_space: LabelSpace, width: int) -> Image.Image:
    """Draw the legend: color and name of each class that occurs, in columns."""
    font = ImageFont.load_default(14)
    names = [*label_space.names, "unknown"]
    ids = present.nonzero().flatten().tolist()
    column = max(int(font.getlength(names[index])) for index in ids) + 22 + 2 * _GAP
    columns = max(1, width // column)
    legend = Image.new("RGB", (width, -(-len(ids) // columns) * (_LINE + 4)), _PAPER)
    pen = ImageDraw.Draw(legend)
    for place, index in enumerate(ids):
        left, top = place % columns * column, place // columns * (_LINE + 4)
        color = tuple(label_space.palette[index].tolist())
        pen.rectangle((left, top + 3, left + 16, top + 17), fill=color, outline=_FAINT)
        pen.text((left + 24, top + 1), names[index], fill=_INK, font=font)
    return legend
