"""Procedural dataset of landscapes with label maps, drawn from (seed, index); needs no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lab2pix.config.schema import Light
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.samples import Sample
from lab2pix.data.scenes.canvas import Canvas
from lab2pix.data.scenes.composition import compose
from lab2pix.data.scenes.light import any_light
from lab2pix.data.sketches import Sketcher
from lab2pix.data.transforms import JointTransform, uint8_to_float
from lab2pix.errors import ConfigError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import atomic_write, output_errors, write_png
from lab2pix.utils.seeding import scene_generator

__all__ = ["MAX_SIDE", "MIN_SIDE", "ScenesDataset", "draw_scene", "write_scenes"]

MIN_SIDE, MAX_SIDE = 32, 8192
"""Smallest and largest height and width of a scene in pixels."""

CACHE_BYTES = 256 * 2**20
"""Size of the scene cache of one dataset, in bytes."""


def draw_scene(seed: int, index: int, size: tuple[int, int], light: Light = "sun") -> tuple[Tensor, Tensor]:
    """Draw one landscape and its label map.

    Args:
        seed: seed of the scenes, at least 0.
        index: index of the scene, at least 0.
        size: height and width in pixels; at the same aspect ratio, the composition does not depend on the size.
        light: `sun`: noon, afternoon or dusk, set by the height of the sun; `any`: a random one of these, overcast,
            storm, rosy morning and moonlight, or a blend of two, independent of the label map.

    Returns:
        Image `[3, H, W]` uint8 RGB, and label map `[H, W]` int64 ids of label space `scenes`.

    Raises:
        ConfigError: the size is too small or too large, or seed or index is negative.
    """
    image, label = _draw(seed, index, size, light)
    return torch.from_numpy(image), torch.from_numpy(label).long()


def _draw(seed: int, index: int, size: tuple[int, int], light: Light) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Same as `draw_scene`, but as uint8 arrays."""
    if min(size) < MIN_SIDE:
        raise ConfigError(
            f"A scene of {size[0]}x{size[1]} pixels is too small to show anything; "
            f"choose a height and width of {MIN_SIDE} or more."
        )
    if max(size) > MAX_SIDE:
        raise ConfigError(
            f"A scene of {size[0]}x{size[1]} pixels is too large for memory; "
            f"choose a height and width of at most {MAX_SIDE}."
        )
    if seed < 0 or index < 0:
        raise ConfigError(f"Scene {index} of seed {seed} does not exist; choose numbers of 0 or more.")
    canvas = Canvas(size, 3 if min(size) < 100 else 2)
    # The light has a separate random stream, so that label maps do not depend on it.
    compose(
        canvas,
        scene_generator(seed, index),
        any_light(scene_generator(seed, index, 1)) if light == "any" else None,
    )
    return canvas.finish()


def _name(seed: int, index: int) -> str:
    return f"scene-{seed}-{index:06d}"


class ScenesDataset(Dataset[Sample]):
    """Dataset of procedural scenes, with the interface of `PairDataset`.

    Attributes:
        size: height and width of the samples in pixels.
        transform: flip of label maps and photos that `UnpairedDataset` reads separately.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        seed: int,
        first_index: int = 0,
        *,
        flip: bool = True,
        train: bool = True,
        sketcher: Sketcher | None = None,
        light: Light = "sun",
    ) -> None:
        """Initialize a dataset of the scenes `first_index` to `first_index + count - 1`.

        Start disjoint sets far apart. A random half of a training set is flipped in each epoch, where `flip` is set.
        A sketcher replaces the label maps by line drawings.

        Raises:
            ConfigError: `count` is less than 1.
        """
        if count < 1:
            raise ConfigError(f"A dataset of {count} scenes is empty; choose 1 or more.")
        self.size = size
        self.transform = JointTransform(size, None, flip, train)
        self._sketcher, self._light = sketcher, light
        self._count, self._seed, self._first, self._flip = count, seed, first_index, flip and train
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._cache_slots = CACHE_BYTES // (4 * size[0] * size[1])

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._count

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        """Return a sample: `label` `[H, W]` int64, `image` `[3, H, W]` float32 in [-1, 1], `edges` None, `name`.

        Args:
            item: index, or `(epoch, index)`; the flip depends on the epoch.
        """
        epoch, index = item if isinstance(item, tuple) else (0, item)
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        pixels, ids = self._scene(index)
        image = uint8_to_float(torch.from_numpy(pixels))
        label = torch.from_numpy(ids).long()
        if self._flip and scene_generator(self._seed, epoch, index).random() < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        return Sample(label=label, image=image, edges=None, name=self.name(index))

    def name(self, index: int) -> str:
        """Return the name of a scene, for messages."""
        return _name(self._seed, self._first + index)

    def read_label(self, index: int) -> tuple[Tensor, None]:
        """Return a scene's label map `[H, W]` int64, unflipped, and None for the instance map."""
        return torch.from_numpy(self._scene(index)[1]).long(), None

    def read_photo(self, index: int) -> Tensor:
        """Return a scene's image `[3, H, W]` uint8, unflipped."""
        return torch.from_numpy(self._scene(index)[0])

    def file_hash(self) -> str:
        """Return a hash of the parameters of the scenes."""
        text = f"scenes {self._seed} {self._first} {self._count} {self.size[0]}x{self.size[1]}"
        text += "" if self._light == "sun" else f" {self._light}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _scene(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a scene from the cache, or draw it and (if there is room) cache it."""
        scene = self._cache.get(index)
        if scene is None:
            scene = _draw(self._seed, self._first + index, self.size, self._light)
            if self._sketcher is not None:
                pixels, ids = scene
                read = torch.from_numpy(pixels if self._sketcher.source == "photo" else ids)
                scene = pixels, self._sketcher.draw(read, self.size).to(torch.uint8).numpy()
            if len(self._cache) < self._cache_slots:
                self._cache[index] = scene
        return scene


def write_scenes(
    out: Path,
    count: int,
    size: tuple[int, int],
    seed: int,
    first: int = 0,
    *,
    light: Light = "sun",
    overwrite: bool = False,
) -> None:
    """Write scenes in the format `folder`: `images/NAME.png` and `labels/NAME.png` (palette PNG of ids).

    These are the scenes `first` to `first + count - 1`; the other arguments are those of `draw_scene`.

    Raises:
        ConfigError: `count` is less than 1, or the size, seed or index is invalid.
        OutputError: `out` has other files, or these scenes without `overwrite`, or cannot be written to.
    """
    if count < 1:
        raise ConfigError(f"Writing {count} scenes makes no dataset; choose 1 or more.")
    space = LabelSpace.load("scenes")
    files = {index: f"{_name(seed, index)}.png" for index in range(first, first + count)}
    with output_errors(out, "choose another folder"):
        _check_output(out, {Path(kind, file) for kind in ("images", "labels") for file in files.values()}, overwrite)
        for index, file in files.items():
            image, label = _draw(seed, index, size, light)
            write_png(out / "images" / file, Image.fromarray(image.transpose(1, 2, 0)))
            with atomic_write(out / "labels" / file, sync=False) as [unfinished]:
                write_label_png(unfinished, torch.from_numpy(label).long(), space)


def _check_output(out: Path, ours: set[Path], overwrite: bool) -> None:
    """Check that a folder has no other files, and these only with `overwrite`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file; give a folder for the scenes.")
    there = {path.relative_to(out) for path in out.rglob("*") if not path.is_dir()}
    others = sorted(there - ours)
    if others:
        raise OutputError(f"{out} already holds {others[0]}, which is none of these scenes; choose an empty folder.")
    if there and not overwrite:
        raise OutputError(
            f"{out} already holds these scenes; choose an empty folder or ask for them to be overwritten."
        )
