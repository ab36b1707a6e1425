"""Self-contained HTML pages: the Jinja2 environment, embedded images, and the format of numbers."""

from __future__ import annotations

import base64
from functools import cache
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lab2pix.reporting.scores import higher_is_better, score_title
from lab2pix.utils.files import escape_surrogates, write_atomically


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lab2pix.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"number": number, "spread": spread, "deviation": deviation, "thousands": "{:,}".format}
    environment.filters.update(filters, score_title=score_title)
    environment.tests["higher_is_better"] = higher_is_better
    return environment


def render(template: str, **context: object) -> Markup:
    """Return a template of `lab2pix/reporting/templates`, rendered; values are escaped."""
    return Markup(_environment().get_template(template).render(**context))


def write_html(file: Path, template: str, **context: object) -> None:
    """Write a page atomically; names of files that are not valid UTF-8 are escaped."""
    write_atomically(file, escape_surrogates(render(template, **context)))


def number(value: float | None) -> str:
    """Format a number with about four significant digits."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4


def deviation(mean: float, std: float) -> str:
    """Format a standard deviation with as many decimals as its mean."""
    return f"± {std:.{_decimals(mean)}f}"


def spread(mean: float | None, std: float | None) -> str:
    """Format a mean with its standard deviation, where it has one."""
    return number(mean) if mean is None or std is None else f"{number(mean)} {deviation(mean, std)}"


def inline_image(
    image: Image.Image, alt: str, *, ids: bool = False, lossless: bool = False, longest: int = 256, css: str = ""
) -> Markup:
    """Return an `<img>` with the image embedded as a data URI.

    Label maps (`ids`) are neither smoothed nor compressed with loss; other images are JPEG unless `lossless`, with the
    CSS class `css`. Images with a side over `longest` pixels are scaled down.
    """
    image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.NEAREST if ids else Image.Resampling.LANCZOS)
    kind = "png" if ids or lossless else "jpeg"
    buffer = BytesIO()
    image.save(buffer, format=kind, **({"optimize": True} if kind == "png" else {"quality": 92}))
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img class="{}" src="data:image/{};base64,{}" alt="{}">').format(
        "ids" if ids else css, kind, data, alt
    )
