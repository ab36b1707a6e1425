"""Starting from weights that another run has learnt: fine-tuning, and growing to a larger size."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.training.checkpoint import latest_checkpoint
from lab2pix.training.state import TrainingState

__all__ = ["init_from"]

_MODEL, _TRAINING = "model.safetensors", "training.safetensors"


def init_from(state: TrainingState, source: str) -> list[str]:
    """Give the players what they share with another run's, by name and shape; the rest stays random.

    The generator and its moving average get the weights that the other run draws with; further players get theirs where
    the source is a run or one of its checkpoints rather than an exported model. Optimisers and counters start anew.

    Args:
        state: before the first step.
        source: a run folder (its newest checkpoint counts), a checkpoint or exported folder, or a `model.safetensors`.

    Returns:
        A sentence per player: how much came from there.

    Raises:
        CheckpointError: there is no such model, it cannot be read, or the generator shares nothing with it.
    """
    model = _find(Path(source).expanduser())
    drawn = _read(model)
    training = model.with_name(_TRAINING)
    learnt = _read(training) if training.is_file() else {}
    notes = []
    for player, network in state.method.networks.items():
        own = {name.removeprefix(f"{player}."): t for name, t in learnt.items() if name.startswith(f"{player}.")}
        if player == "generator":
            own = _replace_generator(own, network, state.method.generator, drawn)
        count = _copy(network, own)
        if player == "generator" and not count:
            raise CheckpointError(
                f"train.start_from: {model} shares no weight with this run's generator; give a model of the same method"
            )
        notes.append(f"{player}: {count} of {len(network.state_dict())} tensors start from {model.parent}")
    if state.average is not None:
        _copy(state.average.network, drawn)
    return notes


def _find(path: Path) -> Path:
    if path.suffix == ".safetensors":
        file = path
    else:
        newest = latest_checkpoint(path)
        file = (path if newest is None else newest) / _MODEL
    if not file.is_file():
        raise CheckpointError(
            f"train.start_from: there is no {file}; give a run folder, a checkpoint folder or a {_MODEL}"
        )
    return file


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"train.start_from: {file} cannot be read ({error}); take another checkpoint") from error


def _replace_generator(
    own: dict[str, Tensor], player: nn.Module, generator: nn.Module, drawn: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the player's tensors with the generator's replaced by those that the run draws with."""
    if player is generator:
        return drawn
    [prefix] = [name for name, module in player.named_modules() if module is generator]
    return own | {f"{prefix}.{name}": tensor for name, tensor in drawn.items()}


def _copy(network: nn.Module, tensors: dict[str, Tensor]) -> int:
    """Copy what agrees in name and shape; return how many that are."""
    mine = network.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in mine and t.shape == mine[name].shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)
