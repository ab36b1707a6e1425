"""Contact sheets of datasets: photo, colored label map and overlay of some pairs, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lab2pix.data.datasets import check_sizes
from lab2pix.data.formats import SHARDS, find_pairs
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.pairs import Pair
from lab2pix.data.shard_index import find_shard_pairs
from lab2pix.data.transforms import resize_image, to_pil
from lab2pix.errors import OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import output_errors, write_png
from lab2pix.utils.sequences import evenly_spaced

_TILE = 300
"""Longest side of a tile in pixels."""
_GAP = 10
_LINE = 20
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 40), (130, 130, 130)
_OVERLAY = 0.55
"""Opacity of the class colors in the overlay."""


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

    Args:
        root: folder of the dataset.
        format: name of the format.
        label_space: classes of the label maps.
        out: path of the PNG.
        split: the split; None: all.
        count: maximum number of pairs.
        overwrite: whether to replace an existing file.

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
    pairs = find_shard_pairs(str(root), split) if format == SHARDS else find_pairs(format, root, split)
    sheet = draw_sheet([pairs[index] for index in evenly_spaced(len(pairs), count)], label_space)
    with output_errors(out, "choose another place"):
        write_png(out, sheet)
    return out


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
    return [to_pil(part) for part in (photo, colors, mixed)]


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
