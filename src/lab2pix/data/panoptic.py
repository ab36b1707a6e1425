"""COCO's panoptic format: a JSON file of segments, and a PNG of segment ids per image (Kirillov et al., 2019)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.formats import find_pairs
from lab2pix.data.label_maps import read_instances
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import to_pil
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import output_errors, write_atomically, write_png


def write_panoptic(root: Path, split: str, label_space: LabelSpace) -> Path:
    """Write COCO's panoptic annotations of a dataset in format `folder`, whose images they refer to.

    `ROOT/annotations/panoptic_SPLIT.json` lists the segments, and `ROOT/annotations/panoptic_SPLIT/NAME.png` has their
    ids as R + 256 G + 65536 B, 0 for unknown. A class is one segment, a stuff category; an instance of a foreground
    class is a segment of its own, a thing, where the dataset has instance maps. Existing annotations are replaced.

    Args:
        root: the dataset.
        split: the split.
        label_space: its classes; category ids are canonical ids + 1.

    Returns:
        The JSON file.

    Raises:
        DataError, LabelError: an unreadable file.
        OutputError: a file cannot be written.
    """
    folder = root / "annotations" / f"panoptic_{split}"
    pairs = find_pairs("folder", root, split)
    things = [item.foreground and bool(pairs) and pairs[0].instance is not None for item in label_space.classes]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with output_errors(folder, "repeat the command"):
        for number, pair in enumerate(pairs, start=1):
            ids = pair.read_label(label_space)
            segments, info = _segments(ids, pair, things)
            write_png(folder / f"{pair.name}.png", _png(segments))
            assert pair.image is not None
            name = pair.image.relative_to(root / "images" / split).as_posix()
            images.append({"id": number, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
            annotations.append({"image_id": number, "file_name": f"{pair.name}.png", "segments_info": info})
        categories = [
            {"id": number + 1, "name": item.name, "isthing": int(thing), "color": list(item.color)}
            for number, (item, thing) in enumerate(zip(label_space.classes, things, strict=True))
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder.with_suffix(".json")
        write_atomically(file, json.dumps(content) + "\n")
    return file


def _segments(ids: Tensor, pair: Pair, things: list[bool]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the segment ids `[H, W]` of a label map, and what COCO lists of each."""
    instances = torch.zeros_like(ids) if pair.instance is None else read_instances(pair.instance)
    segments = torch.zeros_like(ids)
    info: list[dict[str, Any]] = []
    for number in torch.unique(ids).tolist():
        inside = ids == number
        if number == len(things):  # unknown
            continue
        parts = torch.unique(instances[inside]).tolist() if things[number] else [None]
        for part in parts:
            mask = inside if part is None else inside & (instances == part)
            segments[mask] = len(info) + 1
            rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
            entry = {"id": len(info) + 1, "category_id": number + 1, "iscrowd": 0}
            info.append({**entry, "area": int(mask.sum()), "bbox": box})
    return segments, info


def _png(segments: Tensor) -> Image.Image:
    return to_pil(torch.stack([segments & 255, segments >> 8 & 255, segments >> 16]).to(torch.uint8))
