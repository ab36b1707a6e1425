"""Vector files (golden vectors): weights, inputs and outputs recorded from another program, to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import CheckpointError, Lab2PixError
from lab2pix.utils.tensors import load_tensors

Choice = TypeVar("Choice")

TOLERANCE = 1e-4
"""Largest difference allowed: absolute for tensors, relative for losses and gradient norms."""

_SMALL = 1e-3
"""Floor of the denominator of relative differences: sums that cancel are dominated by float32 rounding."""


@dataclass(frozen=True)
class Vectors:
    """Content of a vector file.

    Attributes:
        tensors: weights, inputs (`in.*`) and recorded outputs (`out.*`), by name.
        values: content of the JSON file: `config`, loss values, gradient norms, shapes, notes.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix`, with the prefix removed."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def read_vectors(path: Path) -> Vectors:
    """Read `NAME.safetensors` and `NAME.json`.

    Raises:
        CheckpointError: a file is missing or unreadable, or has no `config`.
    """
    try:
        tensors = load_tensors(path)
        values = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path} and its JSON file: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise CheckpointError(f"{path.with_suffix('.json')} has no section 'config'")
    return Vectors(tensors, values)


def recorded_choice(recorded: Mapping[str, Any], name: str, known: Mapping[str, Choice], default: Any = None) -> Choice:
    """Return what a setting of the recorded `config` stands for.

    Raises:
        CheckpointError: its value is unknown.
    """
    value = recorded.get(name, default)
    if value not in known:
        raise CheckpointError(f"config.{name} is {value!r}; known: {[*known]}")
    return known[value]


def one_by_one(image: Tensor, factor: int, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a stand-in for a backbone feature: 1x1 convolution of the image average-pooled by `factor`."""
    pooled = F.avg_pool2d(image, factor) if factor > 1 else image
    return F.conv2d(pooled, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())


@dataclass(frozen=True)
class Row:
    """Comparison of one recorded output with the computed one.

    Attributes:
        output: name in the file.
        max_abs: largest absolute difference, or relative for losses and gradient norms; NaN if not comparable.
        tolerance: largest difference allowed.
        ok: whether the comparison passed.
        note: reason of a failure without a difference.
    """

    output: str
    max_abs: float
    tolerance: float
    ok: bool
    note: str = ""


def failure(output: str, reason: str) -> Row:
    return Row(output, math.nan, TOLERANCE, False, reason)


def limited(output: str, difference: float, tolerance: float) -> Row:
    return Row(output, difference, tolerance, difference <= tolerance)


def relative_difference(computed: float, recorded: float) -> float:
    return abs(computed - recorded) / max(abs(recorded), _SMALL)


def compare(output: str, computed: Tensor, recorded: Tensor, tolerance: float = TOLERANCE) -> Row:
    """Compare tensors; if the recording is subsampled to every s-th pixel, the computed one is, too."""
    recorded = recorded.float()
    kept = thinned(computed.detach(), recorded)
    if kept is None:
        return failure(output, f"recorded as {list(recorded.shape)}, computed is {list(computed.shape)}")
    return limited(output, (kept - recorded).abs().max().item(), tolerance)


def thinned(computed: Tensor, recorded: Tensor) -> Tensor | None:
    """Return every s-th pixel, as many as were recorded; None if the shapes do not allow it."""
    if computed.ndim != recorded.ndim or computed.shape[:-2] != recorded.shape[:-2]:
        return None
    step = computed.shape[-1] // recorded.shape[-1] if recorded.shape[-1] else 0
    kept = computed[..., ::step, ::step] if step else computed
    return kept if kept.shape == recorded.shape else None


def compare_value(output: str, computed: float, recorded: object, tolerance: float = TOLERANCE) -> Row:
    if not isinstance(recorded, int | float):
        return failure(output, f"recorded as {recorded!r}, which is not a number")
    return limited(output, relative_difference(computed, recorded), tolerance)


def gradient_norm(loss: Tensor, network: nn.Module) -> float:
    """Return the global gradient norm over all parameters (unnormalized weights for spectral norm)."""
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients if gradient is not None))


def compare_losses(name: str, recorded: Mapping[str, object], losses: Mapping[str, Tensor]) -> Iterator[Row]:
    """Compare one group of loss values."""
    for term, value in recorded.items():
        if term in losses:
            yield compare_value(f"{name}.{term}", losses[term].item(), value)
        else:
            yield failure(f"{name}.{term}", f"cannot check: known terms are {', '.join(losses)}")


def guarded(name: str, check: Callable[[], Iterable[Row]]) -> list[Row]:
    """Return the rows of a check; an exception caused by the file's content becomes one failed row."""
    try:
        return list(check())
    except (Lab2PixError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return [failure(name, f"cannot check: {str(error).splitlines()[0] if str(error) else type(error).__name__}")]


def check_case(
    vectors: Vectors,
    known_names: set[str],
    check_tensor: Callable[[str, Tensor], Row],
    check_value: Callable[[str, Any], Iterable[Row]],
    settings: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield a row per recorded output, and a failed row per unknown entry.

    Args:
        vectors: content of the vector file.
        known_names: names of the weights and inputs that the outputs depend on.
        check_tensor: compares one `out.*`.
        check_value: compares one entry of the JSON file.
        settings: entries of the JSON file that are not outputs, besides `config`.
    """
    recorded = {name: tensor for name, tensor in vectors.tensors.items() if name.startswith("out.")}
    for name, tensor in recorded.items():
        yield from guarded(name, lambda name=name, tensor=tensor: [check_tensor(name, tensor)])  # type: ignore[misc]
    for name in sorted(set(vectors.tensors) - known_names - set(recorded)):
        yield failure(name, "cannot check: no network or input of this name is known")
    for name, value in vectors.values.items():
        if name not in ("config", *settings) and not name.startswith("note"):
            yield from guarded(name, partial(check_value, name, value))
