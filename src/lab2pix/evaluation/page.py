"""The page of an evaluation report: scores, classes, best and worst images, and the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lab2pix.data.files import read_image
from lab2pix.data.label_maps import read_label
from lab2pix.data.transforms import to_pil
from lab2pix.errors import Lab2PixError
from lab2pix.labels.space import LabelSpace
from lab2pix.reporting.html import inline_image, write_html


def write_page(report: Mapping[str, Any], file: Path, space: LabelSpace | None = None) -> None:
    """Write the page of a report.

    Label maps are left out without their label space.
    """
    pictures = report["pictures"]
    groups = ("best", "median", "worst") if pictures else ()
    sheets = [(group.capitalize(), [_figure(item, space) for item in pictures.get(group, [])]) for group in groups]
    facts = list(_facts(report["protocol"]))
    title = f"{report['name']}: scores"
    write_html(file, "evaluation.html", title=title, sheets=sheets, protocol_facts=facts, **report)


def _figure(item: Mapping[str, Any], space: LabelSpace | None) -> dict[str, Any]:
    """Return an item with its images by role; files that have been moved or deleted since are left out."""
    images: dict[str, Markup] = {}
    for role, path in (("label map", item["label"]), ("generated", item["file"]), ("real", item["real"])):
        is_label = role == "label map"
        if not path or (is_label and space is None):
            continue
        try:
            labels = space.to_colors(read_label(Path(path), space)) if space and is_label else None
            image = to_pil(read_image(Path(path)) if labels is None else labels)
            images[role] = inline_image(image, f"{role} of {item['name']}", ids=is_label)
        except (OSError, Lab2PixError):
            continue
    return {**item, "images": images}


def _facts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the protocol as names and values; nested names are joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _facts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
