"""Layouts to begin with: drawn scenes, or label maps of the data that a model was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab2pix.data.build import build_dataset
from lab2pix.data.datasets import PairDataset
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.scenes.dataset import MIN_SIDE, ScenesDataset, draw_scene
from lab2pix.errors import Lab2PixError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import get_method
from lab2pix.web.guard import RefusedError

__all__ = ["Example", "draws_scenes", "find_examples", "random_layout"]

EXAMPLES = 6
"""How many there are at most."""

_WORLD = 7
"""Seed of the drawn scenes among them."""
_NAMELESS = ("sky", "cloud", "sun")
"""Classes that say little about a scene, as nearly all have them."""


@dataclass(frozen=True)
class Example:
    """A layout to begin with.

    Attributes:
        name: what a person calls it.
        token: what the server calls it.
        ids: `[H, W]` int64 canonical ids at the model's size.
    """

    name: str
    token: str
    ids: Tensor


def draws_scenes(label_space: LabelSpace) -> bool:
    """Say whether a label space is the one that scenes are drawn in."""
    return label_space.fingerprint() == LabelSpace.load("scenes").fingerprint()


def random_layout(synthesizer: Synthesizer, seed: int, index: int = 0) -> Tensor:
    """Return the label map of a drawn scene at the model's size, `[H, W]` int64.

    Raises:
        RefusedError: 404, the model's classes are not those of drawn scenes.
    """
    if not draws_scenes(synthesizer.label_space):
        raise RefusedError(404, f"No scenes are drawn in label space '{synthesizer.label_space.name}'; upload a layout")
    height, width = synthesizer.size
    _, ids = draw_scene(seed, index, (max(height, MIN_SIDE), max(width, MIN_SIDE)))
    return resize_label(ids, synthesizer.size, synthesizer.label_space)


def find_examples(synthesizer: Synthesizer) -> list[Example]:
    """Return layouts to begin with.

    Those are drawn scenes where the model's classes are theirs, else the first held-out label maps of its data; none
    where these are not on this machine any more.
    """
    space = synthesizer.label_space
    if draws_scenes(space):
        drawn = [random_layout(synthesizer, _WORLD, index) for index in range(EXAMPLES)]
        return _named([(_describe(ids, space), ids) for ids in drawn])
    data = synthesizer.config.data
    found: list[tuple[str, Tensor]] = []
    try:
        paired = get_method(synthesizer.config.method).paired
        held_out = build_dataset(data, "val", space, synthesizer.config.seed, paired=paired)
        if isinstance(held_out, PairDataset | ScenesDataset):
            for index in range(min(EXAMPLES, len(held_out))):
                ids, _ = held_out.read_label(index)
                found.append((held_out.name(index), resize_label(ids, synthesizer.size, space)))
    except (Lab2PixError, OSError):
        return _named(found)
    return _named(found)


def _named(found: Sequence[tuple[str, Tensor]]) -> list[Example]:
    """Give each its token, and a number to those that share their name."""
    examples: list[Example] = []
    for place, (name, ids) in enumerate(found):
        token = hashlib.sha256(f"{place} {name}".encode()).hexdigest()[:16]
        double = any(name == other for other, _ in found[:place])
        examples.append(Example(f"{name} ({place + 1})" if double else name, token, ids))
    return examples


def _describe(ids: Tensor, space: LabelSpace) -> str:
    """Name a scene after the three classes that take the most room in it."""
    counts = torch.bincount(ids.flatten(), minlength=space.num_channels)
    order = [int(index) for index in counts.argsort(descending=True) if counts[index]]
    names = [space.names[index] for index in order if space.names[index] not in _NAMELESS][:3]
    return ", ".join(names).capitalize()
