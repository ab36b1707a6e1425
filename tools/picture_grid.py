"""Arrange the pictures of a folder in a grid, evenly chosen, for a page of results.

python -m tools.picture_grid PICTURES docs/results/images/NAME.jpg --count 24 --columns 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image


def main() -> None:
    """Read the folder, write the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--zoom", type=int, default=1, help="enlarge by so much, pixel by pixel")
    args = parser.parse_args()

    files = sorted(args.pictures.rglob("*.png"))
    if not files:
        parser.error(f"{args.pictures} holds no .png file")
    count = min(args.count, len(files))
    chosen = [Image.open(files[index * len(files) // count]).convert("RGB") for index in range(count)]
    gap = 3
    width, height = (side * args.zoom for side in chosen[0].size)
    rows = -(-count // args.columns)
    grid = Image.new("RGB", (args.columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, picture in enumerate(chosen):
        row, column = divmod(index, args.columns)
        place = (gap + column * (width + gap), gap + row * (height + gap))
        grid.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    grid.save(args.out, quality=92)


if __name__ == "__main__":
    main()
