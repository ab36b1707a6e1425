"""Contact sheets: images in rows and columns, with titles."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


def image_grid(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    *,
    gap: int = 8,
    font: int = 14,
    paper: str = "white",
    lines: Sequence[str] = (),
) -> Image.Image:
    """Return images of one size in rows, with a title above each column.

    Rows may differ in length. `gap` and `font` are in pixels; `lines` of text are above the titles.
    """
    width, height = rows[0][0].size
    columns, line = max(map(len, rows)), round(1.6 * font)
    top = line * (len(lines) + 1) + gap // 2
    sheet = Image.new("RGB", (columns * (width + gap) + gap, top + len(rows) * (height + gap)), paper)
    pen, face = ImageDraw.Draw(sheet), ImageFont.load_default(font)
    for number, text in enumerate(lines):
        pen.text((gap, gap // 2 + number * line), text, fill="#3b3a36", font=face)
    for column, title in enumerate(titles):
        pen.text((gap + column * (width + gap), top - line), title, fill="#3b3a36", font=face)
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * (width + gap), top + number * (height + gap)))
    return sheet
