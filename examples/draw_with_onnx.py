"""Draw pictures with a program that `lab2pix export` wrote: NumPy, onnxruntime and Pillow are all that it needs.

python draw_with_onnx.py scenes.onnx label.png picture.png --seed 3
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def read_ids(label: Path, about: dict, side: tuple[int, int]) -> np.ndarray:
    """Return `[1, H, W]` class ids of a PNG that holds ids or a palette, as `lab2pix` writes and reads them."""
    values = np.asarray(Image.open(label).resize(side, Image.Resampling.NEAREST), np.int64)
    ids = {entry["value_in_files"]: entry["id"] for entry in about["classes"]}
    strange = sorted(set(np.unique(values).tolist()) - ids.keys())
    if strange:
        raise SystemExit(f"{label} holds {strange[0]}, which is no class of {about['label_space']}")
    return np.vectorize(ids.__getitem__, otypes=[np.int64])(values)[None]


def choose_size(label: Path, about: dict) -> tuple[int, int]:
    """Return width and height: the model's own, or, where the program takes any, the nearest that fits."""
    height, width = about["size"]
    if about["multiple_of"] is None:
        return width, height
    step = about["multiple_of"]
    sides = [max(1, round(side / step)) * step for side in Image.open(label).size]
    return sides[0], sides[1]


def main() -> None:
    """Read the words of the command line, draw, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path, help="NAME.onnx; NAME.json is in the same folder")
    parser.add_argument("label", type=Path, help="label map, a PNG")
    parser.add_argument("picture", type=Path, help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another picture")
    words = parser.parse_args()

    about = json.loads(words.program.with_suffix(".json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(words.program), providers=onnxruntime.get_available_providers())

    ids = read_ids(words.label, about, choose_size(words.label, about))
    inputs = {"label": ids}
    for wanted in about["inputs"]:
        if wanted["name"] == "noise":
            random = np.random.default_rng(words.seed)
            inputs["noise"] = random.standard_normal((1, wanted["shape"][1]), dtype=np.float32)
        if wanted["name"] == "instances":  # none at hand: borders between classes
            inputs["instances"] = ids

    (pictures,) = session.run(None, inputs)  # [1, 3, H, W] in -1 to 1
    pixels = ((pictures[0].clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(words.picture)


if __name__ == "__main__":
    main()
