"""Time lapse of training: images of the same scenes after every few steps."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.methods import Method, generate, latent_from_seed

__all__ = ["FILM", "FRAMES", "progress_frames", "save_progress_frame"]

FILM = "film"
FRAMES = 3
"""Scenes per frame, one below the other."""


def save_progress_frame(method: Method, run: Path, step: int) -> dict[str, float]:
    """Generate images of the first held-out scenes: a validator without scores.

    Writes `RUN/film/step-00000100.png`.
    """
    config = method.config
    dataset = build_dataset(config.data, "val", method.label_space, config.seed)
    device = next(method.generator.parameters()).device
    batch = collate([dataset[index] for index in range(min(FRAMES, len(dataset)))])
    noise = latent_from_seed(0, 0, config.generator.noise_dim).expand(len(batch), -1)
    images = float_to_uint8(generate(method.generator, config, method.label_space, batch.to(device), noise.to(device)))
    folder = run / FILM
    folder.mkdir(exist_ok=True)
    to_pil(torch.cat(list(images), dim=1)).save(folder / f"step-{step:08d}.png")
    return {}


def progress_frames(run: Path, height: int) -> list[tuple[int, list[Image.Image]]]:
    """Return the steps with their images, each `height` pixels high."""
    frames = []
    for file in sorted((run / FILM).glob("step-*.png")):
        with Image.open(file) as strip:
            parts = [strip.crop((0, top, strip.width, top + height)) for top in range(0, strip.height, height)]
        frames.append((int(file.stem.removeprefix("step-")), parts))
    return frames
