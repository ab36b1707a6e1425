"""Flicker of generated frames on a made camera move, whose flow is known exactly.

    python benchmarks/flicker.py [MODEL] --out benchmarks/results/flicker.json

A window moves over a larger drawn scene, so each label map is the one before it, shifted. MODEL, by default the shipped
one, generates the frames. The warped difference is the mean absolute difference, in 8-bit levels, of two consecutive
frames where they show the same place: 0 for a camera that moves over a photo. Frames of one seed are compared with
frames that have a seed each, and with frames that are not warped: where the warped difference is as large, textures
stay at their place in the image instead of moving along.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _environment import environment, write_json
from torch import Tensor

from lab2pix import Synthesizer
from lab2pix.data.scenes.dataset import draw_scene

SCENES = 4
FRAMES = 9
SEED = 3


def warped_difference(frames: list[Tensor], shift: int) -> Tensor:
    """Return the mean absolute difference of consecutive frames `[3, H, W]` where both show a place, `[H, W - shift]`.

    Args:
        frames: frames of a camera that moves to the right.
        shift: pixels that it moves between two frames.
    """
    width = frames[0].shape[-1]
    parts = [(a[..., shift:].float() - b[..., : width - shift].float()).abs().mean(0) for a, b in pairwise(frames)]
    return torch.stack(parts).mean(0)


def measure(model: Synthesizer, shift: int) -> dict[str, Any]:
    """Return the warped differences of a camera that moves by `shift` pixels a frame."""
    height, width = model.size
    kinds: dict[str, list[Tensor]] = {"one seed": [], "a seed each": [], "one seed, not warped": []}
    by_class: dict[str, list[float]] = {}
    for index in range(SCENES):
        _, ids = draw_scene(7, index, (height, width + shift * (FRAMES - 1)))
        starts = [shift * number for number in range(FRAMES)]
        maps = [ids[:, start : start + width] for start in starts]
        one = [model(each, seed=SEED).tensor[0] for each in maps]
        own = [model(each, seed=number).tensor[0] for number, each in enumerate(maps)]
        kinds["one seed"].append(warped_difference(one, shift))
        kinds["a seed each"].append(warped_difference(own, shift))
        kinds["one seed, not warped"].append(warped_difference(one, 0))
        for number, (before, after) in enumerate(pairwise(one)):
            off = (before[..., shift:].float() - after[..., : width - shift].float()).abs().mean(0)
            for label in torch.unique(maps[number + 1]).tolist():
                inside = maps[number + 1][:, : width - shift] == label
                if inside.any():
                    by_class.setdefault(model.label_space.names[label], []).append(float(off[inside].mean()))
    edge = torch.cat([off[:, : width // 8] for off in kinds["one seed"]], 1)
    middle = torch.cat([off[:, 3 * width // 8 : 5 * width // 8] for off in kinds["one seed"]], 1)
    means = {kind: sum(float(off.mean()) for off in offs) / SCENES for kind, offs in kinds.items()}
    classes = {name: sum(values) / len(values) for name, values in by_class.items()}
    return {
        "shift": shift,
        "warped_difference": means,
        "left_eighth": float(edge.mean()),
        "middle_quarter": float(middle.mean()),
        "classes": dict(sorted(classes.items(), key=lambda entry: -entry[1])),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="scenes")
    parser.add_argument("--shifts", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = Synthesizer.load(args.model)
    rows = [measure(model, shift) for shift in args.shifts]
    for row in rows:
        print(row)
    if args.out:
        settings = {"scenes": SCENES, "frames": FRAMES, "seed": SEED, "model": model.config.name}
        write_json(args.out, {**settings, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
