"""Weights of classes, matched by class name between the label spaces of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lab2pix.labels.space import LabelClass, LabelSpace
from lab2pix.methods.base import Method

_VECTORS = ("_u", "_v")
"""Suffixes of the singular vectors of spectral norm, which have unit length."""


@dataclass(frozen=True)
class ClassAxis:
    """Dimension of a tensor that grows with the number of classes, such as the input channels of a first convolution.

    Attributes:
        dim: the dimension.
        stride: elements per class.
        unknown: whether unknown pixels have a place, after the classes.
        offset: number of other places before the classes.
    """

    dim: int
    stride: int
    unknown: bool
    offset: int

    def places(self, space: LabelSpace) -> int:
        """Return the number of places that a label space takes."""
        return space.num_classes + (self.unknown and space.unknown_value is not None)


def class_axes(method: Method) -> dict[str, dict[str, list[ClassAxis]]]:
    """Return the dimensions of classes of tensors, by network and name, from the shapes with another label space."""
    space = method.label_space
    more = LabelClass("", (0, 0, 0), value=max(space.class_values) + 1)
    unknown = None if space.unknown_value is None else -1
    larger = replace(space, classes=(*space.classes, more), unknown_value=unknown, evaluation=None)
    toggled = replace(space, unknown_value=-1 if unknown is None else None)
    own, with_class, with_unknown = (
        _shapes(method),
        _shapes(_rebuilt(method, larger)),
        _shapes(_rebuilt(method, toggled)),
    )
    found: dict[str, dict[str, list[ClassAxis]]] = {}
    for network, shapes in own.items():
        found[network] = {}
        for name, shape in shapes.items():
            grown = with_class[network][name]
            dims = [dim for dim, (one, two) in enumerate(zip(shape, grown, strict=True)) if one != two]
            if dims:
                toggles, offset = with_unknown[network][name], method.class_offset(network, name)
                found[network][name] = [
                    ClassAxis(dim, grown[dim] - shape[dim], toggles[dim] != shape[dim], offset) for dim in dims
                ]
    return found


def _rebuilt(method: Method, space: LabelSpace) -> Method:
    # Not on the meta device: power iterations of spectral norm take seconds there, even in narrow networks.
    with torch.random.fork_rng(devices=[]):
        return type(method)(method.config, space, pretrained=False)


def _shapes(method: Method) -> dict[str, dict[str, torch.Size]]:
    return {
        name: {key: value.shape for key, value in network.state_dict().items()}
        for name, network in method.networks.items()
    }


@dataclass(frozen=True)
class ClassMatch:
    """How the classes of a run start from those of another one.

    Attributes:
        source: label space of the other run.
        target: label space of this run.
        chosen: class of the other run for a class of this run, where the names differ.
    """

    source: LabelSpace
    target: LabelSpace
    chosen: Mapping[str, str]

    def new(self) -> list[str]:
        """Return the classes that start from the mean of all classes."""
        return [name for name in self.target.names if self.chosen.get(name, name) not in self.source.names]

    def place_all(
        self, tensors: Mapping[str, Tensor], network: nn.Module, axes: Mapping[str, Sequence[ClassAxis]]
    ) -> dict[str, Tensor]:
        """Return tensors of the other run with the classes of this run, without those that have no place.

        Args:
            tensors: tensors of the other run by name; those without a dimension of classes stay as they are.
            network: network of this run.
            axes: its dimensions of classes, of `class_axes`.
        """
        current = network.state_dict()
        placed = dict(tensors)
        for name in axes.keys() & tensors.keys() & current.keys():
            tensor = self.place(placed.pop(name), current[name], axes[name], name)
            if tensor is not None:
                placed[name] = tensor
        return placed

    def place(self, tensor: Tensor, like: Tensor, axes: Sequence[ClassAxis], name: str) -> Tensor | None:
        """Return a tensor of the other run with the classes of this run, or None if its shape has another cause.

        Args:
            tensor: tensor of the other run.
            like: tensor of this run.
            axes: its dimensions of classes.
            name: its name.
        """
        for axis in axes:
            if (
                tensor.ndim != like.ndim
                or tensor.shape[axis.dim] < (axis.offset + axis.places(self.source)) * axis.stride
            ):
                return None
            tensor = self._place(tensor, axis)
        if name.endswith(_VECTORS):
            tensor = torch.nn.functional.normalize(tensor, dim=0)
        return tensor if tensor.shape == like.shape else None

    def _place(self, tensor: Tensor, axis: ClassAxis) -> Tensor:
        before, after = axis.places(self.source), axis.places(self.target)
        first, last = axis.offset * axis.stride, (axis.offset + before) * axis.stride
        moved = tensor.movedim(axis.dim, 0)
        rows = moved[first:last].reshape(before, axis.stride, *moved.shape[1:])
        classes = rows[: self.source.num_classes]
        fresh = classes.float().mean(0).to(rows.dtype)
        names = self.source.names
        wanted = [self.chosen.get(item, item) for item in self.target.names]
        chosen = [classes[names.index(item)] if item in names else fresh for item in wanted]
        if after > self.target.num_classes:
            chosen.append(rows[-1] if before > self.source.num_classes else fresh)
        block = torch.stack(chosen).flatten(0, 1)
        return torch.cat([moved[:first], block, moved[last:]]).movedim(0, axis.dim).contiguous()
