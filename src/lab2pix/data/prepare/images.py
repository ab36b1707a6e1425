"""Images in memory: decoding with the name of the file in errors, and PNG encoding."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from lab2pix.data.prepare.sources import Member
from lab2pix.errors import DataError


def decode_image(content: bytes, member: Member) -> Image.Image:
    """Decode an image.

    Raises:
        DataError: it is damaged or no image.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{member.path} cannot be read as an image ({error}); download it again") from error
    return image


def encode_png(pixels: NDArray[Any]) -> bytes:
    """Encode `[H, W]` or `[H, W, 3]` uint8, or `[H, W]` uint16, as PNG."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
