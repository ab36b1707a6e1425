"""Draw scenes that no training saw with a model: label map, a picture per seed, and the scene itself, a row each.

python -m tools.model_sheet scenes docs/results/images/shipped.jpg --world 1 --rows 6
python -m tools.model_sheet scenes docs/results/images/shipped_lights.jpg --rows 4 --seeds 6 --no-truth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lab2pix import Synthesizer
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.transforms import to_pil


def sheet(model: str, world: int, rows: int, seeds: int, *, truth: bool = True, gap: int = 4) -> Image.Image:
    """Return the sheet of a world's first scenes, without the scenes themselves where `truth` is off."""
    synthesizer = Synthesizer.load(model, optimize="fast")
    height, width = synthesizer.size
    columns = seeds + 1 + truth
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for row in range(rows):
        image, label = draw_scene(world, row, (height, width))
        pictures = synthesizer(label, seed=0, samples=seeds).tensor
        colors = synthesizer.label_space.to_colors(label)
        for column, picture in enumerate([colors, *pictures, image][:columns]):
            page.paste(to_pil(picture), (column * (width + gap), row * (height + gap)))
    return page


def main(given: Sequence[str] | None = None) -> None:
    """Read the command line, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="trained on scenes: a run, a weights folder, or the one that comes along")
    parser.add_argument("out", type=Path)
    parser.add_argument("--world", type=int, default=1, help="seed of the scenes")
    parser.add_argument("--rows", type=int, default=6, help="how many scenes, the first ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-truth", action="store_true", help="leave the scenes themselves out")
    args = parser.parse_args(given)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(args.model, args.world, args.rows, args.seeds, truth=not args.no_truth).save(args.out, quality=88)


if __name__ == "__main__":
    main()
