"""Weight initialization from another run (`train.init_from`), for fine-tuning or training at a larger size."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.training.checkpoint import latest_checkpoint
from lab2pix.training.state import TrainingState
from lab2pix.utils.files import expand_user
from lab2pix.utils.tensors import load_tensors

__all__ = ["init_from"]

_MODEL, _TRAINING = "model.safetensors", "training.safetensors"


def init_from(state: TrainingState, source: str) -> list[str]:
    """Copy weights that match by name and shape from another run; other weights keep their initial values.

    The generator and its moving average get the exported weights. The other networks are copied only if the source is a
    run or checkpoint, not an exported model. Optimizers and counters start from zero.

    Args:
        state: training state before the first step, modified in place.
        source: a run folder (its newest checkpoint is used), a checkpoint or exported folder, or a `model.safetensors`.

    Returns:
        A sentence per network with the number of copied tensors.

    Raises:
        CheckpointError: the model is missing or unreadable, or shares no weight with the generator.
    """
    model = _find(expand_user(source))
    exported = _read(model)
    training = model.with_name(_TRAINING)
    trained = _read(training) if training.is_file() else {}
    method, where = state.method, f"start from {model.parent}"
    counts = {}
    for name, network in method.networks.items():
        own = {key.removeprefix(f"{name}."): t for key, t in trained.items() if key.startswith(f"{name}.")}
        counts[name] = _copy(network, own)
        if name in state.averages:
            _copy(state.averages[name].network, own)
    generator = method.sampling_generator(method.networks)
    count = _copy(generator, exported)
    if not count:
        raise CheckpointError(
            f"train.init_from: {model} shares no weight with this run's generator; give a model of the same method"
        )
    _copy(method.sampling_generator(state.sampling_networks), exported)
    notes = {name: f"{counts[name]} of {len(network.state_dict())}" for name, network in method.networks.items()}
    notes |= {
        name: f"{count} of {len(generator.state_dict())}" for name, net in method.networks.items() if net is generator
    }
    return [f"{name}: {text} tensors {where}" for name, text in notes.items()]


def _find(path: Path) -> Path:
    if path.suffix == ".safetensors":
        file = path
    else:
        newest = latest_checkpoint(path)
        file = (path if newest is None else newest) / _MODEL
    if not file.is_file():
        raise CheckpointError(
            f"train.init_from: there is no {file}; give a run folder, a checkpoint folder or a {_MODEL}"
        )
    return file


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"train.init_from: {file} cannot be read ({error}); take another checkpoint") from error


def _copy(network: nn.Module, tensors: dict[str, Tensor]) -> int:
    """Copy tensors that match in name and shape; return their number."""
    current = network.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in current and t.shape == current[name].shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)
