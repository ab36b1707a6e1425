"""Vector files of one training step in parts: outputs, losses, gradients by part, and weights after the step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lab2pix.interop.vectors import Row, Vectors, failure, limited, relative_difference, thinned

PartLosses = dict[str, dict[str, float | list[float]]]
"""Losses, or lists of losses, by part of the step and name."""

_SETTINGS = (
    *("system", "source", "config", "order", "thinned", "tolerance", "after_step_tolerance"),
    "parameters_with_zero_gradient",
)
"""Entries of the JSON file that are not recorded results."""

_LOSS, _LOSS_AFTER_STEP = 1e-4, 5e-3
_NORM, _NORM_AFTER_STEP = 1e-3, 1e-2
_NORM_OF_PARAMETER, _SHARE_OF_NETWORK = 5e-3, 1e-4
_SUM = 1e-4


@dataclass
class PartResults:
    """Results of this package for a vector file, under the names in the file.

    Attributes:
        networks: prefixes of the networks' weights.
        outputs: tensors, without the prefix `out.`.
        losses: losses by part of the step and name.
        loose: names of losses (`PART.NAME`) that see a network after its own step, so that they are known less exactly.
        gradients: norms of gradients by part of the step, network and parameter; 0 without a gradient.
        states: weights of all networks by entry of the file, such as `after_step`, and network.
        features: features by output, of which the file has sums.
    """

    networks: tuple[str, ...]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    losses: PartLosses = field(default_factory=dict)
    loose: Collection[str] = ()
    gradients: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    states: dict[str, dict[str, dict[str, Tensor]]] = field(default_factory=dict)
    features: dict[str, list[Tensor]] = field(default_factory=dict)


def check_parts(vectors: Vectors, results: PartResults) -> Iterator[Row]:
    """Compare every recorded result of a vector file, within the tolerances in the file.

    Unknown tensors and values yield failed rows. Parameters whose true gradient is zero are left out, as their step is
    the sign of rounding errors.
    """
    known = tuple(f"{prefix}." for prefix in (*results.networks, "in", "out"))
    for name in vectors.tensors:
        if not name.startswith(known):
            yield failure(name, "cannot check: no network or input of this name is known")
    for name, recorded in vectors.part("out.").items():
        yield _check_output(name, results.outputs.get(name), recorded.float(), vectors.values["tolerance"])
    for name, recorded in vectors.values.items():
        if name == "loss":
            yield from _check_losses(recorded, results)
        elif name == "grad_norm":
            yield from _check_norms(recorded, results)
        elif name == "grad_norm_per_parameter":
            yield from _check_parameter_norms(recorded, vectors.values, results)
        elif name == "feature_checksums":
            yield from _check_features(recorded, results.features, vectors.values["tolerance"]["feature_checksums_rel"])
        elif name in results.states:
            yield from _check_sums(name, recorded, vectors.values, results.states[name])
        elif name not in _SETTINGS and not name.startswith("note"):
            yield failure(name, "cannot check: no such value is known")


def _check_output(name: str, computed: Tensor | None, recorded: Tensor, tolerance: Mapping[str, Any]) -> Row:
    limit = tolerance["outputs_abs"].get(f"out.{name}")
    if computed is None or limit is None:
        return failure(f"out.{name}", "cannot check: no such output, or no tolerance, is known")
    computed = thinned(computed.detach(), recorded) if recorded.ndim == 4 else computed.detach()
    if computed is None or computed.shape != recorded.shape:
        return failure(f"out.{name}", f"recorded as {list(recorded.shape)}, computed has another shape")
    return limited(f"out.{name}", (computed - recorded).abs().max().item(), limit)


def _check_losses(recorded: Mapping[str, Mapping[str, Any]], results: PartResults) -> Iterator[Row]:
    for part, losses in recorded.items():
        for name, value in losses.items():
            computed = results.losses.get(part, {}).get(name)
            values, numbers = (one if isinstance(one, list) else [one] for one in (value, computed))
            if computed is None or len(values) != len(numbers):
                yield failure(f"loss.{part}.{name}", "cannot check: no such value is known")
                continue
            limit = _LOSS_AFTER_STEP if f"{part}.{name}" in results.loose else _LOSS
            difference = max(relative_difference(one, other) for one, other in zip(numbers, values, strict=True))
            yield limited(f"loss.{part}.{name}", difference, limit)


def _check_norms(recorded: Mapping[str, Mapping[str, float]], results: PartResults) -> Iterator[Row]:
    for index, (part, networks) in enumerate(recorded.items()):
        for network, value in networks.items():
            name, norms = f"grad_norm.{part}.{network}", results.gradients.get(part, {}).get(network)
            if norms is None:
                yield failure(name, "cannot check: no such value is known")
                continue
            total = sum(norm**2 for norm in norms.values()) ** 0.5
            yield limited(name, relative_difference(total, value), _NORM_AFTER_STEP if index else _NORM)


def _check_parameter_norms(
    recorded: Mapping[str, Mapping[str, Mapping[str, float | None]]], values: Mapping[str, Any], results: PartResults
) -> Iterator[Row]:
    for part, networks in recorded.items():
        for network, norms in networks.items():
            computed = results.gradients.get(part, {}).get(network, {})
            floor = _SHARE_OF_NETWORK * values["grad_norm"][part][network]
            for name, norm in norms.items():
                if name in _without_gradient(values, network) | _without_gradient(values, f"{network} in {part}"):
                    continue
                where = f"grad_norm_per_parameter.{part}.{network}.{name}"
                if name not in computed:
                    yield failure(where, "cannot check: no such parameter is known")
                elif norm is None:
                    yield limited(where, computed[name], 0.0)
                else:
                    yield limited(where, abs(computed[name] - norm) / max(norm, floor), _NORM_OF_PARAMETER)


def _check_sums(
    group: str,
    recorded: Mapping[str, Mapping[str, list[float]]],
    values: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
) -> Iterator[Row]:
    for network, sums in recorded.items():
        tolerances = values["after_step_tolerance"].get(network, {})
        for name, (total, absolute) in sums.items():
            if name not in tolerances and name in _without_gradient(values, network):
                continue
            where, weight = f"{group}.{network}.{name}", states.get(network, {}).get(name)
            if weight is None:
                yield failure(where, "cannot check: no such weight is known")
                continue
            exact = weight.double()
            difference = max(abs(exact.sum().item() - total), abs(exact.abs().sum().item() - absolute))
            yield limited(where, difference, tolerances.get(name, _SUM * max(1.0, absolute)))


def _without_gradient(values: Mapping[str, Any], network: str) -> set[str]:
    return set(values["parameters_with_zero_gradient"].get(network, ()))


def _check_features(
    recorded: Mapping[str, list[list[float]]], computed: Mapping[str, list[Tensor]], limit: float
) -> Iterator[Row]:
    """Compare sums and sums of absolute values, relative to the latter."""
    for name, layers in recorded.items():
        if len(layers) != len(computed.get(name, ())):
            yield failure(f"feature_checksums.{name}", f"recorded are {len(layers)} features; other ones are computed")
            continue
        for index, ((total, absolute), feature) in enumerate(zip(layers, computed[name], strict=True)):
            exact = feature.double()
            difference = max(abs(exact.sum().item() - total), abs(exact.abs().sum().item() - absolute)) / absolute
            yield limited(f"feature_checksums.{name}.{index}", difference, limit)
