"""Vector files of two training steps of a generator and a discriminator: networks G, D and, if there is one, E."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import CheckpointError
from lab2pix.interop.step_vectors import to_image
from lab2pix.interop.vectors import Row, Vectors, compare, compare_value, failure, limited
from lab2pix.labels.space import LabelSpace


@dataclass(frozen=True)
class LayerFeature:
    """Output of one layer of a discriminator for fake and for real images.

    Attributes:
        shape: shape of the output.
        fake_norm, real_norm: L2 norms.
    """

    shape: tuple[int, ...]
    fake_norm: float
    real_norm: float


@dataclass
class TwoStepResults:
    """Results of this package for a vector file, under the names in the file.

    Attributes:
        outputs: tensors, without the prefix `out.`.
        values: numbers by group (`loss.generator`, `grad_norm.after_generator_half`, ...) and name.
        features: outputs of each discriminator's layers, by name of the discriminator.
        states: all weights and buffers before the first step, after it, and after the second.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    features: dict[str, list[LayerFeature]] = field(default_factory=dict)
    states: list[dict[str, Tensor]] = field(default_factory=list)


_SETTINGS = (
    "system",
    "name",
    "source",
    "config",
    "optimizer",
    "tolerance",
    "thinned",
    "noise_tensors",
    "float64_and_other_kernels",
)
"""Entries of the JSON file that are not recorded results."""

_DEFAULT_TOLERANCES = {
    "out": 1e-4,
    "loss": 1e-4,
    "features": 1e-4,
    "grad_norm": 1e-3,
    "grad_norm_by_tensor": 1e-2,
    "second_step": 1e-3,
}
_SUMS = ("sum", "abs_sum", "delta_sum", "delta_abs_sum")


def check_two_steps(vectors: Vectors, results: TwoStepResults, inputs: Sequence[str]) -> Iterator[Row]:
    """Compare every recorded result of a vector file, within the tolerances in the file.

    Args:
        vectors: content of the vector file.
        results: our results.
        inputs: names of the inputs (`in.*`) that the results depend on.

    Yields:
        A row per recorded value; unknown tensors and values are failed rows.
    """
    for name in vectors.tensors:
        if not name.startswith(("G.", "D.", "E.", "out.")) and name not in inputs:
            yield failure(name, "cannot check: no network or input of this name is known")
    for name, recorded in vectors.part("out.").items():
        if name in results.outputs:
            yield compare(f"out.{name}", results.outputs[name], recorded, _tolerance(vectors, "out"))
        else:
            yield failure(f"out.{name}", "cannot check: no such output is known")
    for name, recorded in vectors.values.items():
        if name not in _SETTINGS and not name.startswith("note"):
            yield from _check_entry(vectors, results, name, recorded)


def _check_entry(vectors: Vectors, results: TwoStepResults, name: str, recorded: Any) -> Iterator[Row]:
    """Compare one entry of the JSON file."""
    group = name.partition(".")[0]
    if name == "features":
        yield from _check_features(recorded, results.features, _tolerance(vectors, "features"))
    elif name == "after_step":
        yield from _check_sums(recorded, results.states)
    elif name == "after_second_step.delta_abs_sum":
        noise = set(vectors.values["noise_tensors"])
        for network, expected in recorded.items():
            moved = _moved(results.states, f"{network}.", noise)
            yield compare_value(f"{name}.{network}", moved, expected["value"], expected["tolerance"])
    elif group in _DEFAULT_TOLERANCES:
        ours, tolerance = results.values.get(name, {}), _tolerance(vectors, group)
        for term, value in recorded.items():
            if value is None:
                continue
            if term in ours:
                yield compare_value(f"{name}.{term}", ours[term], value, tolerance)
            else:
                yield failure(f"{name}.{term}", "cannot check: no such value is known")
    else:
        yield failure(name, "cannot check: no such value is known")


def _tolerance(vectors: Vectors, group: str) -> float:
    """Return the tolerance of a group of results, which the file names `group` or `group.*`."""
    recorded = vectors.values.get("tolerance", {})
    for name in (group, f"{group}.*"):
        if isinstance(recorded, Mapping) and isinstance(recorded.get(name), int | float):
            return float(recorded[name])
    return _DEFAULT_TOLERANCES[group]


def _check_features(
    recorded: Mapping[str, Sequence[Mapping[str, Any]]], ours: Mapping[str, list[LayerFeature]], tolerance: float
) -> Iterator[Row]:
    for network, layers in recorded.items():
        own = ours.get(network, [])
        if len(own) < len(layers):
            yield failure(f"features.{network}", f"recorded are {len(layers)} layers, computed are {len(own)}")
            continue
        # Without feature matching, only the last layers are recorded.
        for layer, mine in zip(layers, own[len(own) - len(layers) :], strict=True):
            name = f"features.{network}.{layer['name']}"
            if list(mine.shape) != layer["shape"]:
                yield failure(name, f"recorded as {layer['shape']}, computed is {list(mine.shape)}")
                continue
            yield compare_value(f"{name}.fake_norm", mine.fake_norm, layer["fake_norm"], tolerance)
            yield compare_value(f"{name}.real_norm", mine.real_norm, layer["real_norm"], tolerance)


def _check_sums(recorded: Mapping[str, Mapping[str, Any]], states: Sequence[Mapping[str, Tensor]]) -> Iterator[Row]:
    """Compare the sums over each tensor after the first step, and over its change."""
    before, after = states[:2]
    for name, sums in recorded.items():
        if sums.get("noise"):
            continue
        if name not in after:
            yield failure(f"after_step.{name}", "cannot check: no such weight is known")
            continue
        if "value" in sums:  # a counter
            yield compare_value(f"after_step.{name}", after[name].item(), sums["value"], 0.0)
            continue
        moved = after[name].double() - before[name].double()
        weight = after[name].double()
        ours = (weight.sum(), weight.abs().sum(), moved.sum(), moved.abs().sum())
        for kind, value, tolerance in zip(_SUMS, ours, sums["tolerance"], strict=True):
            yield limited(f"after_step.{name}.{kind}", abs(value.item() - sums[kind]), tolerance)


def _moved(states: Sequence[Mapping[str, Tensor]], prefix: str, without: set[str]) -> float:
    """Return the sum of absolute changes of a network's parameters over both steps."""
    before, _, after = states
    return math.fsum(
        (after[name].double() - weight.double()).abs().sum().item()
        for name, weight in before.items()
        if name.startswith(prefix) and name not in without and not name.endswith(_BUFFERS)
    )


_BUFFERS = (".weight_u", ".weight_v", ".running_mean", ".running_var", ".num_batches_tracked")
"""Endings of the names of what is not a parameter."""


def recorded_batch(vectors: Vectors, space: LabelSpace, classes: int) -> Batch:
    """Return the inputs of a recording: `in.label`, `in.image` and `in.instance`.

    Args:
        vectors: content of the vector file.
        space: label space of the ids.
        classes: number of classes; 0: the label map is an image.

    Raises:
        CheckpointError: the label map holds ids outside the label space.
    """
    inputs = vectors.part("in.")
    label, image = inputs["label"], to_image(inputs["image"])
    instances = inputs["instance"].long().view(len(image), *image.shape[2:]) if "instance" in inputs else None
    edges = None if instances is None else instance_edges(instances)
    if not classes:
        empty = torch.empty(len(image), 0, 0, dtype=torch.int64)
        return Batch(empty, image, edges=edges, instances=instances, source=to_image(label))
    ids = label.long().view(len(image), *image.shape[2:])
    if int(ids.max()) >= space.num_channels:
        raise CheckpointError(f"in.label holds {int(ids.max())}, but there are {space.num_channels} channels")
    return Batch(ids, image, edges=edges, instances=instances)
