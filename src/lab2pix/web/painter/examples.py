"""Example label maps: procedural scenes, drawn layouts, or held-out label maps of a model's data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from lab2pix.data.build import build_dataset
from lab2pix.data.datasets import PairDataset
from lab2pix.data.label_maps import read_label
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.scenes.dataset import MIN_SIDE, ScenesDataset, draw_scene
from lab2pix.errors import Lab2PixError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import get_method
from lab2pix.utils.registry import label_space_names
from lab2pix.web.responses import HTTPError

MAX_EXAMPLES = 6

_SEED = 7
_UBIQUITOUS = ("sky", "cloud", "sun")
"""Classes that do not distinguish scenes, because nearly all have them."""


@dataclass(frozen=True)
class Example:
    """An example label map.

    Attributes:
        name: name for people.
        token: name in URLs.
        ids: `[H, W]` int64 canonical ids at the model's size.
    """

    name: str
    token: str
    ids: Tensor


def has_scenes(label_space: LabelSpace) -> bool:
    """Return whether random scenes can be drawn for a label space: it is that of the procedural scenes."""
    return label_space.fingerprint() == LabelSpace.load("scenes").fingerprint()


def random_scene(synthesizer: Synthesizer, seed: int, index: int = 0) -> Tensor:
    """Return the label map of a procedural scene at the model's size, `[H, W]` int64.

    Raises:
        HTTPError: 404, the model has another label space.
    """
    if not has_scenes(synthesizer.label_space):
        raise HTTPError(404, f"There are no scenes in label space '{synthesizer.label_space.name}'; upload a label map")
    height, width = synthesizer.size
    _, ids = draw_scene(seed, index, (max(height, MIN_SIDE), max(width, MIN_SIDE)))
    return resize_label(ids, synthesizer.size, synthesizer.label_space)


def find_examples(synthesizer: Synthesizer) -> list[Example]:
    """Return example label maps of a model.

    These are procedural scenes if the model has their classes, layouts that come with the package if it has those of
    their label space, else the first held-out label maps of its data.
    The list is empty if the data are not on this machine.
    """
    space = synthesizer.label_space
    if has_scenes(space):
        scenes = [random_scene(synthesizer, _SEED, index) for index in range(MAX_EXAMPLES)]
        return _make_examples([(_describe(ids, space), ids) for ids in scenes])
    if layouts := _drawn_layouts(space):
        return _make_examples([(name, resize_label(ids, synthesizer.size, space)) for name, ids in layouts])
    found: list[tuple[str, Tensor]] = []
    try:
        paired = get_method(synthesizer.config.method).paired
        held_out = build_dataset(synthesizer.config.data, "val", space, synthesizer.config.seed, paired=paired)
        if isinstance(held_out, PairDataset | ScenesDataset):
            for index in range(min(MAX_EXAMPLES, len(held_out))):
                ids, _ = held_out.read_label(index)
                found.append((held_out.name(index), resize_label(ids, synthesizer.size, space)))
    except (Lab2PixError, OSError):
        pass  # the examples found so far are still useful
    return _make_examples(found)


def _drawn_layouts(space: LabelSpace) -> list[tuple[str, Tensor]]:
    """Return name and ids of the layouts that were drawn by hand for the classes of a shipped label space."""
    if space.name not in label_space_names():
        return []
    folder = Path(str(resources.files("lab2pix.web.painter"))) / "layouts" / space.name
    files = sorted(folder.glob("*.png"))
    if space.fingerprint() != LabelSpace.load(space.name).fingerprint():
        return []
    names = (file.stem.partition("-")[2].replace("-", " ").capitalize() for file in files)
    return [(name, read_label(file, space)) for name, file in zip(names, files, strict=True)]


def _make_examples(found: Sequence[tuple[str, Tensor]]) -> list[Example]:
    """Give each label map a token, and number those with the same name."""
    examples: list[Example] = []
    for index, (name, ids) in enumerate(found):
        token = hashlib.sha256(f"{index} {name}".encode()).hexdigest()[:16]
        duplicate = any(name == other for other, _ in found[:index])
        examples.append(Example(f"{name} ({index + 1})" if duplicate else name, token, ids))
    return examples


def _describe(ids: Tensor, space: LabelSpace) -> str:
    """Name a scene after its three largest classes."""
    counts = torch.bincount(ids.flatten(), minlength=space.num_channels)
    order = [int(index) for index in counts.argsort(descending=True) if counts[index]]
    names = [space.names[index] for index in order if space.names[index] not in _UBIQUITOUS][:3]
    return ", ".join(names).capitalize()
