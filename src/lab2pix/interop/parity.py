"""Does this package compute what the released networks computed? Vector files say so, output by output."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import DataError, Lab2PixError
from lab2pix.interop.golden_v1 import V1Vectors
from lab2pix.interop.golden_v2 import V2Vectors, Vectors, read_vectors

__all__ = ["TOLERANCE", "Row", "check_file", "check_files", "run_parity"]

TOLERANCE = 1e-4
"""Largest difference allowed: absolute for tensors, relative for losses and gradient norms."""

_SMALL = 1e-3
"""Values below it count as this large when differences are taken relative: sums that cancel keep float32's noise."""


@dataclass(frozen=True)
class Row:
    """One recorded answer against ours.

    Attributes:
        output: its name in the file.
        max_abs: largest absolute difference; for losses and gradient norms the relative one; NaN where none was taken.
        tolerance: the most that is right.
        ok: whether it is.
        note: why not, where no number says so.
    """

    output: str
    max_abs: float
    tolerance: float
    ok: bool
    note: str = ""


def _failure(output: str, reason: str) -> Row:
    return Row(output, math.nan, TOLERANCE, False, reason)


def _compare(output: str, ours: Tensor, recorded: Tensor) -> Row:
    """Compare tensors; where the file holds every s-th pixel only, so do we."""
    recorded = recorded.float()
    thinned = _thinned(ours.detach(), recorded)
    if thinned is None:
        return _failure(output, f"recorded as {list(recorded.shape)}, ours is {list(ours.shape)}")
    difference = (thinned - recorded).abs().max().item()
    return Row(output, difference, TOLERANCE, difference <= TOLERANCE)


def _thinned(ours: Tensor, recorded: Tensor) -> Tensor | None:
    if ours.ndim != recorded.ndim or ours.shape[:-2] != recorded.shape[:-2]:
        return None
    step = ours.shape[-1] // recorded.shape[-1] if recorded.shape[-1] else 0
    thinned = ours[..., ::step, ::step] if step else ours
    return thinned if thinned.shape == recorded.shape else None


def _compare_value(output: str, ours: float, recorded: object) -> Row:
    if not isinstance(recorded, int | float):
        return _failure(output, f"recorded as {recorded!r}, which is no number")
    difference = abs(ours - recorded) / max(abs(recorded), _SMALL)
    return Row(output, difference, TOLERANCE, difference <= TOLERANCE)


def _gradient_norm(loss: Tensor, network: nn.Module) -> float:
    """Return the norm over all parameters, raw weights under spectral norm among them."""
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients if gradient is not None))


# --- V2: one recorded answer each, name in the file -> rows -------------------------------------------------------


def _check_tensor(case: V2Vectors, name: str, recorded: Tensor) -> Row:
    """Compare one `out.*`."""
    if name == "out.generated":
        return _compare(name, case.drawn, recorded)
    if name == "out.enhance_mask":
        mask = case.mask
        return _compare(name, mask if recorded.ndim == mask.ndim else mask[:, 0], recorded)
    if match := re.fullmatch(r"out\.global\.(\d+)", name):
        features = case.global_features
        if int(match[1]) < len(features):
            return _compare(name, features[int(match[1])], recorded)
    if match := re.fullmatch(r"out\.D(\d+)\.(fake|real|blurred)", name):
        outputs = case.judged[match[2]]
        if int(match[1]) < len(outputs):
            levels = outputs[int(match[1])].predictions
            size = (levels[0].shape[-2], levels[0].shape[-1])
            stack = torch.cat([F.interpolate(level, size=size, mode="nearest") for level in levels], 1)
            return _compare(name, stack, recorded)
    return _failure(name, "cannot check: no such output is known")


def _check_losses(name: str, recorded: Mapping[str, object], losses: Mapping[str, Tensor]) -> Iterator[Row]:
    """Compare one group of loss values."""
    for term, value in recorded.items():
        if term in losses:
            yield _compare_value(f"{name}.{term}", losses[term].item(), value)
        else:
            yield _failure(f"{name}.{term}", f"cannot check: known terms are {', '.join(losses)}")


def _check_shapes(case: V2Vectors, name: str, scale: int, recorded: object) -> Row:
    """Compare the shapes of the features that one discriminator offers for feature matching."""
    outputs = case.judged["real"]
    if scale >= len(outputs):
        return _failure(name, f"cannot check: there are {len(outputs)} discriminators")
    ours = [list(feature.shape) for feature in outputs[scale].features]
    return Row(name, 0.0, TOLERANCE, True) if ours == recorded else _failure(name, f"ours are {ours}")


def _check_value(case: V2Vectors, name: str, recorded: Any) -> Iterator[Row]:
    """Compare one entry of the JSON file."""
    group, _, player = name.partition(".")
    if group in ("loss", "grad_norm") and player in ("generator", "discriminator"):
        network = case.generator if player == "generator" else case.discriminator
        losses = case.generator_losses if player == "generator" else case.discriminator_losses
        if group == "loss":
            yield from _check_losses(name, recorded, losses)
        else:  # of the sum of the terms that the recorded player had
            terms = case.vectors.values.get(f"loss.{player}", losses)
            loss = torch.stack([value for term, value in losses.items() if term in terms]).sum()
            yield _compare_value(name, _gradient_norm(loss, network), recorded)
    elif match := re.fullmatch(r"D(\d+)\.features", name):
        yield _check_shapes(case, name, int(match[1]), recorded)
    else:
        yield _failure(name, "cannot check: no such value is known")


# --- V1 -----------------------------------------------------------------------------------------------------------

_BY_SCALE = "losses_by_scale_X3_X2_X1"
_PLACES = {"consistency": ("X3-X2", "X2-X1")}


def _check_v1_tensor(case: V1Vectors, name: str, recorded: Tensor) -> Row:
    """Compare one `out.*`."""
    if match := re.fullmatch(r"out\.X([123])", name):
        return _compare(name, case.generated[3 - int(match[1])], recorded)
    if name == "out.enhance_mask" and case.mask is not None:
        return _compare(name, case.mask if recorded.ndim == 4 else case.mask[:, 0], recorded)
    if match := re.fullmatch(r"out\.D([123])\.(fake|real|blurred)\.level(\d+)", name):
        levels = case.judged[match[2]].get(int(match[1]), [])
        if 1 <= int(match[3]) <= len(levels):
            return _compare(name, levels[int(match[3]) - 1].sigmoid(), recorded)
    return _failure(name, "cannot check: no such output is known")


def _check_v1_value(case: V1Vectors, name: str, recorded: Any) -> Iterator[Row]:
    """Compare one entry of the JSON file: a list of values per term, the largest scale first."""
    if name != _BY_SCALE:
        yield _failure(name, "cannot check: no such value is known")
        return
    for term, values in recorded.items():
        if term not in case.losses:
            yield _failure(f"losses.{term}", f"cannot check: known terms are {', '.join(case.losses)}")
            continue
        ours = case.losses[term]
        places = _PLACES.get(term) or [f"X{scale}" for scale in case.discriminators]
        if not isinstance(values, list) or len(values) != len(ours):
            yield _failure(f"losses.{term}", f"recorded as {values!r}, ours are {len(ours)} values")
            continue
        for place, value, one in zip(places, values, ours, strict=True):
            yield _compare_value(f"losses.{term}.{place}", one.item(), value)


# --- files --------------------------------------------------------------------------------------------------------


def _guarded(name: str, check: Callable[[], Iterable[Row]]) -> list[Row]:
    """Return a check's rows; one that breaks on what the file holds is a row that failed, and the rest goes on."""
    try:
        return list(check())
    except (Lab2PixError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return [_failure(name, f"cannot check: {str(error).splitlines()[0] if str(error) else type(error).__name__}")]


def _is_v1(vectors: Vectors) -> bool:
    return "G.noise_process.weight" in vectors.tensors


def _rows(vectors: Vectors, fast: bool) -> Iterator[Row]:
    check_tensor: Callable[[str, Tensor], Row]
    check_value: Callable[[str, Any], Iterable[Row]]
    case: V1Vectors | V2Vectors
    if _is_v1(vectors):
        case = v1 = V1Vectors(vectors)
        check_tensor, check_value = partial(_check_v1_tensor, v1), partial(_check_v1_value, v1)
    else:
        case = v2 = V2Vectors(vectors, fast=fast)
        check_tensor, check_value = partial(_check_tensor, v2), partial(_check_value, v2)
    recorded = {name: tensor for name, tensor in vectors.tensors.items() if name.startswith("out.")}
    for name, tensor in recorded.items():
        yield from _guarded(name, lambda name=name, tensor=tensor: [check_tensor(name, tensor)])  # type: ignore[misc]
    for name in sorted(set(vectors.tensors) - case.known_names - set(recorded)):
        yield _failure(name, "cannot check: no network or input of this name is known")
    for name, value in vectors.values.items():
        if name not in ("config", *case.settings) and not name.startswith("note"):
            yield from _guarded(name, partial(check_value, name, value))


def _unreadable(vectors: Vectors) -> str | None:
    """Return why nothing of a file can be compared, if that is so."""
    discriminator = "D3." if _is_v1(vectors) else "D.discriminator_0."
    if not any(name.startswith(discriminator) for name in vectors.tensors):
        return (
            "cannot check: these are not the networks of Lab2Pix "
            "(V1: weights under G.noise_process and D3, V2: under D.discriminator_0)"
        )
    if not any(name.startswith("out.") for name in vectors.tensors):
        return "cannot check: there is no recorded answer (out.*)"
    return None


def check_file(path: Path, *, fast: bool = False) -> list[Row]:
    """Compare every recorded answer of one vector file with this package's.

    Args:
        path: `NAME.safetensors`, with `NAME.json` beside it.
        fast: compute with fused and accelerated networks; there are none of the released V1.

    Returns:
        A row per recorded tensor, loss value and gradient norm. What cannot be compared is a row that failed: also a
        file that cannot be read, or weights that do not fit.
    """

    def check() -> Iterable[Row]:
        vectors = read_vectors(path)
        reason = _unreadable(vectors)
        return [_failure(path.name, reason)] if reason else _rows(vectors, fast)

    return _guarded(path.name, check)


def check_files(paths: Iterable[Path], *, fast: bool = False) -> dict[Path, list[Row]]:
    """Check vector files, and all those in folders.

    Raises:
        DataError: a path does not exist, or a folder holds no vector file.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise DataError(f"there is no vector file at {path}; give NAME.safetensors or a folder that holds some")
        files.extend(found)
    return {file: check_file(file, fast=fast) for file in files}


def run_parity(paths: Iterable[Path], *, fast: bool = False) -> bool:
    """Check vector files and print a table for each.

    Returns:
        Whether all of them are right in all they hold.
    """
    everything = check_files(paths, fast=fast)
    for file, rows in everything.items():
        print(file)
        for row in rows:
            difference = row.note or f"{row.max_abs:.2e} of {row.tolerance:.0e}"
            print(f"  {'ok  ' if row.ok else 'FAIL'}  {row.output:<28} {difference}")
    failed = sum(not row.ok for rows in everything.values() for row in rows)
    total = sum(len(rows) for rows in everything.values())
    print(f"{total - failed} of {total} right" + (f", {failed} not" if failed else ""))
    return not failed
