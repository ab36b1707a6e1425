"""Vector files of one training step: outputs, losses, gradients, and weights after the step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError
from lab2pix.interop.vectors import Row, Vectors, failure, limited
from lab2pix.labels.colors import generate_colors
from lab2pix.labels.space import LabelClass, LabelSpace


@dataclass
class StepResults:
    """Results of this package for a vector file, under the names in the file.

    Attributes:
        networks: prefixes of the networks' weights.
        outputs: tensors, without the prefix `out.`.
        values: numbers by group (`loss.initial`, `grad_norm.step`, ...) and name.
        state: weights of all networks after the step.
        other: further results, which must equal the recorded ones exactly.
    """

    networks: tuple[str, ...]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)

    def add_gradients(self, when: str, norms: Mapping[str, tuple[float, Mapping[str, float]]]) -> None:
        """Add the norm of each network's gradient, in all and by tensor; `when` is `initial` or `step`."""
        self.values[f"grad_norm.{when}"] = {prefix: total for prefix, (total, _) in norms.items()}
        self.values[f"grad_norm_by_tensor.{when}"] = {
            f"{prefix}.{name}": norm for prefix, (_, tensors) in norms.items() for name, norm in tensors.items()
        }


_SETTINGS = ("system", "format", "config", "tolerance", "measured", "after.tolerance", "after.unstable")
"""Entries of the JSON file that are not recorded results."""

_TOLERANCES = {
    "loss": "loss_relative",
    "grad_norm": "grad_norm_relative",
    "grad_norm_by_tensor": "grad_norm_by_tensor_relative",
}


def check_step(vectors: Vectors, results: StepResults) -> Iterator[Row]:
    """Compare every recorded result of a vector file, within the tolerances in the file.

    Unknown tensors and values yield failed rows.
    """
    known = tuple(f"{prefix}." for prefix in (*results.networks, "in", "out"))
    for name in vectors.tensors:
        if not name.startswith(known):
            yield failure(name, "cannot check: no network or input of this name is known")
    for name, recorded in vectors.part("out.").items():
        yield from _check_output(
            f"out.{name}", results.outputs.get(name), recorded.float(), vectors.values["tolerance"]
        )
    for name, recorded in vectors.values.items():
        group = name.partition(".")[0]
        if name == "after.sums":
            yield from _check_sums(recorded, results.state, vectors.values)
        elif group in _TOLERANCES:
            tolerance = vectors.values["tolerance"]
            yield from _check_values(
                name, recorded, results.values.get(name, {}), tolerance[_TOLERANCES[group]], tolerance
            )
        elif name in results.other:
            computed = results.other[name]
            same = computed == recorded
            yield (
                Row(name, 0.0, 0.0, True) if same else failure(name, f"recorded is {recorded}, computed is {computed}")
            )
        elif name not in _SETTINGS and not name.startswith("note"):
            yield failure(name, "cannot check: no such value is known")


def _check_output(
    name: str, computed: Tensor | None, recorded: Tensor, tolerance: Mapping[str, float]
) -> Iterator[Row]:
    if computed is None:
        yield failure(name, "cannot check: no such output is known")
        return
    step = (
        -(-computed.shape[-1] // recorded.shape[-1])
        if recorded.ndim == computed.ndim == 4 and recorded.shape[-1]
        else 1
    )
    computed = computed.detach()[..., ::step, ::step] if step > 1 else computed.detach()
    if computed.shape != recorded.shape:
        yield failure(name, f"recorded as {list(recorded.shape)}, computed is {list(computed.shape)}")
        return
    difference = (computed - recorded).abs()
    after = name.startswith("out.after.")
    limit = tolerance["out.after_max"] if after else tolerance["out"] * max(1.0, recorded.abs().max().item())
    yield limited(name, difference.max().item(), limit)
    if after:
        yield limited(f"{name} (mean)", difference.mean().item(), tolerance["out.after_mean"])


def _check_values(
    group: str,
    recorded: Mapping[str, float],
    computed: Mapping[str, float],
    limit: float,
    tolerance: Mapping[str, float],
) -> Iterator[Row]:
    for name, value in recorded.items():
        if name not in computed:
            yield failure(f"{group}.{name}", "cannot check: no such value is known")
            continue
        yield limited(
            f"{group}.{name}", abs(computed[name] - value) / max(abs(value), tolerance["relative_floor"]), limit
        )


def _check_sums(
    recorded: Mapping[str, list[float]], state: Mapping[str, Tensor], values: Mapping[str, Any]
) -> Iterator[Row]:
    for name, sums in recorded.items():
        if name in values.get("after.unstable", ()):
            continue
        if name not in state or name not in values["after.tolerance"]:
            yield failure(f"after.sums.{name}", "cannot check: no such weight, or no tolerance, is known")
            continue
        weight = state[name].double()
        computed = (weight.sum().item(), weight.abs().sum().item())
        difference = max(abs(first - second) for first, second in zip(computed, sums, strict=True))
        yield limited(f"after.sums.{name}", difference, values["after.tolerance"][name])


# --- helpers of readers -------------------------------------------------------------------------------------------


def input_classes(
    vectors: Vectors, channels: int, *, source: str = "real_A", image: str = "real_B", others: Collection[str] = ()
) -> tuple[int, Batch]:
    """Return the number of classes (0 if the input is an image), and the inputs as a batch.

    Args:
        vectors: content of the vector file; uint8 images are converted to [-1, 1].
        channels: input channels of the generator, one per class.
        source: name of the input image after `in.`, unless the file has class ids, `in.ids`.
        image: name of the target image.
        others: names of further inputs, which the file must have.

    Raises:
        CheckpointError: an input is missing or unknown, or an id of `in.ids` is out of range.
    """
    inputs = vectors.part("in.")
    if set(inputs) not in ({source, image, *others}, {"ids", image, *others}):
        more = f" and {', '.join(others)}" if others else ""
        raise CheckpointError(f"the inputs are {sorted(inputs)}; known: {source} or ids, {image}{more}")
    target = to_image(inputs[image])
    if "ids" not in inputs:
        empty = torch.empty(len(target), 0, 0, dtype=torch.int64)
        return 0, Batch(label=empty, image=target, source=to_image(inputs[source]))
    ids = inputs["ids"].long()
    ids = ids[:, 0] if ids.ndim == 4 else ids
    if int(ids.max()) >= channels:
        raise CheckpointError(f"in.ids holds {int(ids.max())}, but there are {channels} classes")
    return channels, Batch(label=ids, image=target)


def numbered_space(classes: int, *, unknown: bool = False) -> LabelSpace:
    """Return a label space of numbered classes, with unknown pixels if asked for.

    Args:
        classes: number of classes; 0 is taken for 1, as a label space has some.
        unknown: whether there is a channel for unknown pixels.
    """
    colors = generate_colors(max(1, classes))
    named = tuple(LabelClass(f"class {index}", color) for index, color in enumerate(colors))
    return LabelSpace("numbered", named, unknown_value=len(named) if unknown else None)


def to_image(stored: Tensor) -> Tensor:
    return (stored.float() / 255 - 0.5) / 0.5 if stored.dtype == torch.uint8 else stored.float()


def without_dropout(network: nn.Module) -> nn.Module:
    """Set the probability of every dropout layer to 0; the layers stay, so that weight names do not change."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return network


def gradient_norms(network: nn.Module, names: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """Return the global gradient norm of a network, and the norm per parameter under its name in the file.

    Args:
        network: network after the backward pass.
        names: mapping from names of weights in this package to names in the file.
    """
    norms = {
        names[name]: 0.0 if parameter.grad is None else parameter.grad.double().norm().item()
        for name, parameter in network.named_parameters()
    }
    return math.hypot(*norms.values()), norms
