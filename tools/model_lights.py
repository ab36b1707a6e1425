"""Measure how far noise changes the light: one format in many seeds, beside the same format drawn in as many lights.

python -m tools.model_lights scenes --count 24 --out benchmarks/results/model_lights.json

Spread is the range (largest less smallest) over the seeds of a picture's mean brightness, and of the redness of its sky
(red less blue), in levels of 255; means over formats, those with a sun in them and those without apart.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._environment import environment, write_json
from lab2pix import Synthesizer
from lab2pix.data.scenes.canvas import CLASSES, Canvas
from lab2pix.data.scenes.composition import compose
from lab2pix.data.scenes.light import any_light


def in_light(world: int, index: int, size: tuple[int, int], light: int) -> tuple[Tensor, Tensor]:
    """Return a scene's picture `[3, H, W]` uint8 and label map, in one of many lights."""
    canvas = Canvas(size, 2)
    compose(canvas, np.random.default_rng([world, index]), any_light(np.random.default_rng([world, index, 1, light])))
    image, label = canvas.finish()
    return torch.from_numpy(image), torch.from_numpy(label).long()


def spread(pictures: Sequence[Tensor], label: Tensor) -> tuple[float, float]:
    """Return the range of brightness, and of the redness of the sky, over pictures `[3, H, W]` of one label map."""
    sky = label == CLASSES["sky"]
    bright = [float(picture.float().mean()) for picture in pictures]
    red = [float((picture[0].float() - picture[2].float())[sky].mean()) for picture in pictures]
    return max(bright) - min(bright), max(red) - min(red)


def measure(synthesizer: Synthesizer, world: int, count: int, seeds: int) -> list[dict[str, float | bool]]:
    """Return the spreads of each format, by the model's noise and by the world's lights."""
    rows: list[dict[str, float | bool]] = []
    for index in range(count):
        lights = [in_light(world, index, synthesizer.size, light) for light in range(seeds)]
        label = lights[0][1]
        if not (label == CLASSES["sky"]).any():
            continue
        drawn = spread(list(synthesizer(label, seed=0, samples=seeds).tensor), label)
        true = spread([image for image, _ in lights], label)
        sun = bool((label == CLASSES["sun"]).any())
        rows.append({"sun": sun, "bright": drawn[0], "red": drawn[1], "true_bright": true[0], "true_red": true[1]})
    return rows


def means(rows: Sequence[dict[str, float | bool]]) -> dict[str, dict[str, float]]:
    """Return the mean spreads of formats with a sun, of those without, and of all."""
    found = {}
    for name, chosen in (("sun", (True,)), ("no sun", (False,)), ("all", (True, False))):
        some = [row for row in rows if row["sun"] in chosen]
        keys = [key for key in (some[0] if some else ()) if key != "sun"]
        found[name] = {"formats": len(some)} | {key: statistics.mean(float(row[key]) for row in some) for key in keys}
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="trained on scenes: a run, a weights folder, or the one that comes along")
    parser.add_argument("--world", type=int, default=1, help="seed of the scenes, one that no training saw")
    parser.add_argument("--count", type=int, default=48, help="formats")
    parser.add_argument("--seeds", type=int, default=12, help="pictures of each")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(given)
    synthesizer = Synthesizer.load(args.model, optimize="fast")
    found = means(measure(synthesizer, args.world, args.count, args.seeds))
    for name, values in found.items():
        print(name, {key: round(value, 1) for key, value in values.items()})
    if args.out:
        write_json(args.out, environment() | {"world": args.world, "seeds": args.seeds, "spread": found})


if __name__ == "__main__":
    main()
