"""Layout augmentation: label maps flipped, cropped, with moved objects and with objects of other label maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab2pix.data.line_drawings import resize_label
from lab2pix.data.transforms import resize_nearest
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.extras import import_extra

_LEAST_OBJECT = 0.001
"""Smallest share of the pixels of an object that is moved or pasted."""


@dataclass(frozen=True)
class LayoutSettings:
    """How layouts vary.

    Attributes:
        flip: whether to flip horizontally with probability 0.5.
        crop: smallest side of the random crop, as a share of that of the label map; 1: no crop.
        paste: largest number of objects pasted from another label map; 0: none.
        jitter: largest displacement of objects, as a share of the sides; 0: none.
    """

    flip: bool = True
    crop: float = 0.7
    paste: int = 3
    jitter: float = 0.05

    @property
    def moves_objects(self) -> bool:
        """Whether objects are moved or pasted."""
        return self.paste > 0 or self.jitter > 0


@dataclass(frozen=True)
class Layout:
    """A label map with its instance map.

    Attributes:
        ids: `[H, W]` int64 canonical ids.
        instances: `[H, W]` int64 instance ids, or None.
    """

    ids: Tensor
    instances: Tensor | None = None

    def resize(self, size: tuple[int, int], label_space: LabelSpace) -> Layout:
        """Resize to a height and width."""
        instances = None if self.instances is None else resize_nearest(self.instances, size)
        return Layout(resize_label(self.ids, size, label_space), instances)

    def cut(self, top: int, left: int, height: int, width: int, *, flip: bool) -> Layout:
        """Cut out a box, and flip it horizontally on request."""

        def part(values: Tensor) -> Tensor:
            values = values[top : top + height, left : left + width]
            return values.flip(-1) if flip else values

        return Layout(part(self.ids), None if self.instances is None else part(self.instances))


@dataclass(frozen=True)
class LayoutObject:
    """A connected region of a foreground class, or an instance of it.

    Attributes:
        number: canonical id of the class.
        mask: `[H, W]` bool.
    """

    number: int
    mask: Tensor


def find_objects(layout: Layout, label_space: LabelSpace) -> list[LayoutObject]:
    """Return the objects of a layout, without the smallest ones, by class.

    An object is an instance of a foreground class, or without an instance map a 4-connected region of it.

    Raises:
        ConfigError: the extra `label` is not installed.
    """
    image = import_extra("scipy.ndimage", "label", "moving and pasting objects")
    least, found = max(2, _LEAST_OBJECT * layout.ids.numel()), []
    for number, item in enumerate(label_space.classes):
        inside = layout.ids == number
        if not item.foreground or not inside.any():
            continue
        if layout.instances is None:
            regions = torch.from_numpy(image.label(inside.numpy())[0])
            masks = [regions == region for region in range(1, int(regions.max()) + 1)]
        else:
            masks = [inside & (layout.instances == which) for which in torch.unique(layout.instances[inside]).tolist()]
        found += [LayoutObject(number, mask) for mask in masks if int(mask.sum()) >= least]
    return found


def vary_layout(
    layout: Layout,
    donor: Layout,
    size: tuple[int, int],
    label_space: LabelSpace,
    settings: LayoutSettings,
    generator: torch.Generator,
) -> tuple[Layout, dict[str, Any]]:
    """Vary a layout at random: flip, crop, moved objects, and objects pasted from another label map.

    Only foreground classes are moved and pasted. What a moved object uncovers is given to the nearest pixels.

    Args:
        layout: the label map.
        donor: label map whose objects are pasted, at about their places.
        size: height and width of the result.
        label_space: classes of both.
        settings: how layouts vary.
        generator: random generator.

    Returns:
        The new layout, and what was done, for a manifest.

    Raises:
        ConfigError: the extra `label` is not installed, and objects are to be moved or pasted.
    """
    flip = settings.flip and _uniform(generator) < 0.5
    share = 1 - (1 - settings.crop) * _uniform(generator)
    height, width = (max(1, round(side * share)) for side in layout.ids.shape)
    top, left = (
        _integer(whole - part + 1, generator) for whole, part in zip(layout.ids.shape, (height, width), strict=True)
    )
    result = layout.cut(top, left, height, width, flip=flip).resize(size, label_space)
    done: dict[str, Any] = {"flip": flip, "crop": [top, left, height, width], "moved": 0, "pasted": []}
    if settings.jitter:
        moving = [thing for thing in find_objects(result, label_space) if _uniform(generator) < 0.5]
        result = _move(result, moving, settings.jitter, generator)
        done["moved"] = len(moving)
    if settings.paste:
        donor = donor.resize(size, label_space)
        things = find_objects(donor, label_space)
        order = torch.randperm(len(things), generator=generator)[: _integer(settings.paste + 1, generator)]
        for thing in (things[place] for place in order.tolist()):
            mask = _shift(thing.mask, _displacement(size, settings.jitter, generator))
            result = _paint(result, thing.number, mask)
            done["pasted"].append({"class": label_space.names[thing.number], "pixels": int(mask.sum())})
    return result, done


def _move(layout: Layout, objects: list[LayoutObject], jitter: float, generator: torch.Generator) -> Layout:
    """Displace objects at random; what they uncover is given to the nearest pixels of other objects and classes."""
    if not objects:
        return layout
    image = import_extra("scipy.ndimage", "label", "moving and pasting objects")
    gone = torch.stack([thing.mask for thing in objects]).any(0)
    if gone.all():
        return layout
    rows, columns = image.distance_transform_edt(gone.numpy(), return_distances=False, return_indices=True)
    instances = layout.instances
    result = Layout(layout.ids[rows, columns], None if instances is None else instances[rows, columns])
    size = (layout.ids.shape[0], layout.ids.shape[1])
    for thing in objects:
        result = _paint(result, thing.number, _shift(thing.mask, _displacement(size, jitter, generator)))
    return result


def _paint(layout: Layout, number: int, mask: Tensor) -> Layout:
    """Give pixels to a class, as a new instance."""
    instances = layout.instances
    if instances is not None:
        instances = instances.masked_fill(mask, int(instances.max()) + 1)
    return Layout(layout.ids.masked_fill(mask, number), instances)


def _shift(mask: Tensor, displacement: tuple[int, int]) -> Tensor:
    """Shift a mask by rows and columns; what leaves the image is lost."""
    shifted = torch.zeros_like(mask)
    to, of = zip(*(_overlap(side, by) for side, by in zip(mask.shape, displacement, strict=True)), strict=True)
    shifted[to] = mask[of]
    return shifted


def _overlap(side: int, by: int) -> tuple[slice, slice]:
    return slice(max(by, 0), side + min(by, 0)), slice(max(-by, 0), side - max(by, 0))


def _displacement(size: tuple[int, int], jitter: float, generator: torch.Generator) -> tuple[int, int]:
    rows, columns = (round(side * jitter * (2 * _uniform(generator) - 1)) for side in size)
    return rows, columns


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _integer(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
