"""Atomic checkpoints for exact resume.

A checkpoint is a folder `checkpoints/step-00001000` of four files. `model.safetensors` (the generator to sample with)
and `config.json` are an exported model. `training.safetensors` (networks by name, averages under `average.NAME.`, extra
state of the method under `extra.RANK.`) and `optimizer.pt` (optimizers, loss scaling, counters) hold the rest of the
training state. The folder is written under a temporary name, synced to disk and renamed, so a crash never leaves a
partial checkpoint.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import CheckpointError, TrainingError
from lab2pix.labels.space import LabelSpace
from lab2pix.training.state import Best, TrainingState
from lab2pix.utils.files import UNFINISHED, sync_file, sync_folder
from lab2pix.utils.tensors import load_tensors, save_tensors

_LOG = logging.getLogger(__name__)

FORMAT = "lab2pix-2"

_FILES = ("model.safetensors", "config.json", "training.safetensors", "optimizer.pt")


def checkpoint_step(path: Path) -> int | None:
    """Return the step in a checkpoint folder's name, or None if the name is not that of a checkpoint."""
    kind, _, number = path.name.partition("-")
    return int(number) if kind == "step" and number.isdecimal() else None


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoint folders, oldest first."""
    found = [(checkpoint_step(path), path) for path in (run / "checkpoints").glob("step-*") if path.is_dir()]
    return [path for _, path in sorted((step, path) for step, path in found if step is not None)]


def latest_checkpoint(run: Path) -> Path | None:
    """Return a run's newest checkpoint folder, or None if it has none."""
    paths = list_checkpoints(run)
    return paths[-1] if paths else None


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk or an exceeded quota."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # C++ and Rust libraries pass on only the text of the system error.
    return any(words in str(error) for words in ("No space left on device", "Disk quota exceeded"))


def _tensors(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _training_tensors(state: TrainingState, extra: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of `training.safetensors`, without an average that `model.safetensors` already holds."""
    tensors: dict[str, Tensor] = {}
    for name, network in state.method.networks.items():
        tensors |= _tensors(network, f"{name}.")
    for name, average in state.averages.items():
        if average.network is not state.sampling_generator:
            tensors |= _tensors(average.network, f"average.{name}.")
    for rank, own in enumerate(extra):
        tensors |= {f"extra.{rank}.{name}": tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    return tensors


def _write_files(folder: Path, state: TrainingState, tensors: dict[str, Tensor]) -> None:
    method = state.method
    description = {
        "format": FORMAT,
        "config": method.config.model_dump(mode="json"),
        "label_space": method.label_space.to_dict(),
        "step": state.step,
    }
    rest = {
        "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "best": None if state.best is None else asdict(state.best),
    }
    save_tensors(_tensors(state.sampling_generator), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")
    save_tensors(tensors, folder / "training.safetensors")
    torch.save(rest, folder / "optimizer.pt")
    for name in _FILES:
        sync_file(folder / name)
    sync_folder(folder)


def write_checkpoint(run: Path, state: TrainingState, extra: Sequence[Mapping[str, Tensor]] = ()) -> Path:
    """Write the state as `checkpoints/step-...`; an existing checkpoint of the step is kept.

    `extra` is `Method.extra_state` of each process by rank; empty: that of this process.

    Returns:
        The checkpoint folder.

    Raises:
        TrainingError: a weight is not finite, the disk is full, or the folder cannot be written.
    """
    parent = run / "checkpoints"
    path = parent / f"step-{state.step:08d}"
    if path.exists():
        return path
    tensors = _training_tensors(state, extra or [state.method.extra_state()])
    broken = next((name for name, value in tensors.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise TrainingError(
            f"weight '{broken}' is not finite after step {state.step}, so no checkpoint was written; the last good one "
            f"is {latest_checkpoint(run) or 'none'}: resume from it with lower learning rates or train.precision=fp32"
        )
    unfinished = parent / f"{UNFINISHED}{path.name}"
    try:
        unfinished.mkdir(parents=True)
        _write_files(unfinished, state, tensors)
        unfinished.rename(path)
        sync_folder(parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(run).free
        shutil.rmtree(unfinished, ignore_errors=True)
        kept = latest_checkpoint(run)
        reason = "the disk is full" if is_disk_full(error) or free < 2**20 else str(error)
        raise TrainingError(
            f"cannot write checkpoint {path}: {reason}; {kept.name if kept else 'no older checkpoint'} is kept, so "
            "make room or fix the folder, and go on with --resume"
        ) from error
    _LOG.info("wrote %s", path)
    return path


def _discard(path: Path) -> None:
    # Renamed first, so that a partially deleted folder is never taken for a checkpoint.
    if not path.name.startswith(UNFINISHED):
        path = path.rename(path.with_name(f"{UNFINISHED}old-{path.name}"))
    shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(run: Path, keep: int, best: Best | None) -> None:
    """Delete all but the latest `keep` checkpoints and the one with the best score."""
    for path in list_checkpoints(run)[:-keep]:
        if best is None or checkpoint_step(path) != best.step:
            _discard(path)


def clean_checkpoints(run: Path) -> None:
    """Delete the remains of interrupted writes and deletions."""
    for path in (run / "checkpoints").glob(f"{UNFINISHED}*"):
        _discard(path)


def _read(path: Path, name: str, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path / name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path / name} is missing; take another checkpoint") from error
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / name} cannot be read ({type(error).__name__}); take another checkpoint"
        ) from error


def _load_weights(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} holds weights of another network than this run's config.yaml describes"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_checkpoint(path: Path, state: TrainingState, rank: int = 0) -> None:
    """Restore the training state from a checkpoint.

    `rank` selects the extra state of this process; additional processes use that of rank 0.

    Raises:
        CheckpointError: a file is missing or unreadable, or the label space or a network differs.
    """
    _LOG.info("continuing from %s", path)
    description = _read(path, "config.json", lambda file: json.loads(file.read_text(encoding="utf-8")))
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{path / 'config.json'} is not of format '{FORMAT}'; it was made by another program")
    stored = LabelSpace.from_dict(description["label_space"])
    current = state.method.label_space
    if changes := stored.differences(current, colors=False):
        raise CheckpointError(
            f"{path} was trained with label space '{stored.name}' of {stored.num_classes} classes, which is not the "
            f"'{current.name}' of {current.num_classes} classes that data.label_space gives now ({changes[0]}); "
            "restore that one"
        )
    tensors = _read(path, "training.safetensors", load_tensors)
    for name, network in state.method.networks.items():
        _load_weights(network, _part(tensors, f"{name}."), path / "training.safetensors")
    for name, average in state.averages.items():
        own = _part(tensors, f"average.{name}.") or _read(path, "model.safetensors", load_tensors)
        _load_weights(average.network, own, path / "training.safetensors")
    state.method.load_extra_state(_part(tensors, f"extra.{rank}.") or _part(tensors, "extra.0."))
    rest = _read(path, "optimizer.pt", lambda file: torch.load(file, map_location="cpu", weights_only=True))
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(rest["optimizers"][name])
    state.scaler.load_state_dict(rest["scaler"])
    state.step, state.seconds = rest["step"], rest["seconds"]
    state.best = None if rest["best"] is None else Best(**rest["best"])
