"""Pages that need nothing beside them: frame, pictures inside the page, and how numbers are written."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from io import BytesIO
from pathlib import Path

from PIL import Image

from lab2pix.utils.files import escape_surrogates, write_atomically

__all__ = ["TITLES", "html_document", "number", "picture", "score_title", "spread", "write_html"]

TITLES = {
    "ppa": "PPA, share of right pixels",
    "pca": "PCA, mean accuracy of classes",
    "ciou": "C-IoU, mean IoU of classes",
    "fid": "FID",
    "kid": "KID",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "diversity_pixels": "Diversity, mean difference of pixels (0 to 255)",
    "diversity_lpips_alex": "Diversity, LPIPS (AlexNet)",
    "diversity_lpips_vgg": "Diversity, LPIPS (VGG16)",
}


def score_title(name: str) -> str:
    """Return what a person calls a score."""
    for start, word in (("frechet_", "Fréchet distance"), ("kernel_", "Kernel distance")):
        if name.startswith(start):
            return f"{word}, {name.removeprefix(start)} features"
    return TITLES.get(name, name)


def number(value: float | None) -> str:
    """Write a number with as many digits as say something."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4


def spread(mean: float | None, std: float | None, between: str = " ") -> str:
    """Write a mean with its deviation, where there is one, as exactly as the mean."""
    return number(mean) if mean is None or std is None else f"{number(mean)}{between}± {std:.{_decimals(mean)}f}"


def picture(image: Image.Image, alternative: str, *, ids: bool = False, longest: int = 256) -> str:
    """Return an `<img>` that holds the picture itself, at most `longest` pixels wide and high."""
    image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.NEAREST if ids else Image.Resampling.LANCZOS)
    buffer = BytesIO()
    if ids:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=92)
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = ' class="ids"' if ids else ""
    return f'<img{kind} src="data:image/{"png" if ids else "jpeg"};base64,{data}" alt="{escape(alternative)}">'


def html_document(title: str, body: str) -> str:
    """Return a whole page."""
    style = resources.files("lab2pix.reporting").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def write_html(file: Path, title: str, body: str) -> None:
    """Write a page, in full or not at all."""
    write_atomically(file, escape_surrogates(html_document(title, body)))
