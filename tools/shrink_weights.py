"""Keep the convolutions of a model's first block in 8 bits each, beside the 16 of `lab2pix export --fp16`.

python -m tools.shrink_weights scenes-16 scenes

They are under spectral norm, which divides any factor out again, so each is first scaled to where float8 is finest.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lab2pix import Synthesizer
from lab2pix.data.scenes.dataset import draw_scene

NAMES = tuple(f"blocks.0.conv_{number}.parametrizations.weight.original" for number in (0, 1))
SPREAD = 2.0
"""Standard deviation that the weights get: float8 (e4m3) is equally fine from 1/64 to 448."""


def main() -> None:
    """Write the smaller copy, and say how far its pictures are from those of the larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder of `lab2pix export --format weights`, of drawn scenes")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    tensors = load_file(args.model / "model.safetensors")
    for name in NAMES:
        weight = tensors[name].float()
        tensors[name] = (weight * (SPREAD / weight.std())).to(torch.float8_e4m3fn)
    args.out.mkdir(parents=True)
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(args.model / "config.json", args.out)
    before, after = (Synthesizer.load(folder, device="cpu") for folder in (args.model, args.out))
    for index in range(4):
        batch, noise = before.read(draw_scene(1, index, before.size)[1]), before.noise(index)[None]
        error = (before.generate(batch, noise) - after.generate(batch, noise)).square().mean()
        print(f"scene {index}: {10 * float(torch.log10(4 / error)):.1f} dB")


if __name__ == "__main__":
    main()
