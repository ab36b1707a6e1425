"""Draw unseen scenes, or the painter's examples, with a model: label map and a picture per seed, a row each.

The last column is the scene itself.

python -m tools.model_sheet scenes docs/results/images/shipped.jpg --world 1 --rows 6
python -m tools.model_sheet scenes docs/results/images/shipped_lights.jpg --rows 4 --seeds 6 --no-truth
python -m tools.model_sheet landscapes docs/results/images/landscapes.jpg --examples --rows 12
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lab2pix import Synthesizer
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.transforms import to_pil
from lab2pix.web.painter.examples import find_examples


def sheet(
    model: str, world: int, rows: int, seeds: int, *, truth: bool = True, examples: bool = False, gap: int = 4
) -> Image.Image:
    """Return the sheet of a world's first scenes or of the painter's examples, the scenes themselves with `truth`."""
    synthesizer = Synthesizer.load(model, optimize="fast")
    height, width = synthesizer.size
    columns = seeds + 1 + truth
    drawn = [example.ids for example in find_examples(synthesizer)][:rows] if examples else None
    rows = rows if drawn is None else len(drawn)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for row in range(rows):
        image, label = draw_scene(world, row, (height, width)) if drawn is None else (None, drawn[row])
        pictures = synthesizer(label, seed=0, samples=seeds).tensor
        colors = synthesizer.label_space.to_colors(label)
        for column, picture in enumerate([colors, *pictures, image][:columns]):
            page.paste(to_pil(picture), (column * (width + gap), row * (height + gap)))
    return page


def main(given: Sequence[str] | None = None) -> None:
    """Read the command line, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a weights folder, or the name of an installed one")
    parser.add_argument("out", type=Path)
    parser.add_argument("--world", type=int, default=1, help="seed of the scenes")
    parser.add_argument("--rows", type=int, default=6, help="how many scenes, the first ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-truth", action="store_true", help="leave the scenes themselves out")
    parser.add_argument("--examples", action="store_true", help="the painter's examples instead of scenes")
    args = parser.parse_args(given)
    truth = not (args.no_truth or args.examples)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(args.model, args.world, args.rows, args.seeds, truth=truth, examples=args.examples).save(args.out, quality=88)


if __name__ == "__main__":
    main()
