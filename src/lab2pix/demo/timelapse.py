"""Time lapse of training: images of the same scenes after every few steps."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.methods import generate, latent_from_seed
from lab2pix.training.state import TrainingState
from lab2pix.utils.files import write_png

FILM = "film"
FRAMES = 3
"""Scenes per frame, one below the other."""


def save_progress_frame(state: TrainingState, run: Path, step: int) -> dict[str, float]:
    """Generate images of the first held-out scenes: a validator without scores.

    Writes `RUN/film/step-00000100.png`.
    """
    method, generator, config = state.method, state.sampling_generator, state.method.config
    dataset = build_dataset(config.data, "val", method.label_space, config.seed, paired=method.paired)
    device = next(generator.parameters()).device
    batch = collate([dataset[index] for index in range(min(FRAMES, len(dataset)))])
    shape = method.sampling.noise_shape(config.data.size)
    noise = None if shape is None else torch.stack([latent_from_seed(0, 0, shape)] * len(batch)).to(device)
    images = float_to_uint8(generate(generator, method.sampling, batch.to(device), noise))
    write_png(run / FILM / f"step-{step:08d}.png", to_pil(torch.cat(list(images), dim=1)))
    return {}


def progress_frames(run: Path, height: int) -> list[tuple[int, list[Image.Image]]]:
    """Return the steps with their images, each `height` pixels high."""
    frames = []
    for file in sorted((run / FILM).glob("step-*.png")):
        with Image.open(file) as strip:
            parts = [strip.crop((0, top, strip.width, top + height)) for top in range(0, strip.height, height)]
        frames.append((int(file.stem.removeprefix("step-")), parts))
    return frames
