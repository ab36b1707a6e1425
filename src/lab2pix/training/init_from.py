"""Weight initialization from another run (`train.init_from`), for fine-tuning or training at a larger size."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import CheckpointError, ConfigError, did_you_mean
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.base import Method
from lab2pix.training.checkpoint import latest_checkpoint
from lab2pix.training.class_weights import ClassMatch, class_axes
from lab2pix.training.state import TrainingState
from lab2pix.utils.files import expand_user
from lab2pix.utils.tensors import load_tensors

_MODEL, _TRAINING, _CONFIG = "model.safetensors", "training.safetensors", "config.json"


def init_from(state: TrainingState, source: str) -> list[str]:
    """Copy weights that match by name and shape from another run; other weights keep their initial values.

    Weights of classes, such as the input channels of a first convolution, are matched by class name: a class that the
    other run lacks starts from `train.init_classes`, or from the mean of all classes.

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
    match = _match_classes(method, model.with_name(_CONFIG))
    axes = {} if match is None else class_axes(method)
    counts, generator = {}, method.sampling_generator(method.networks)
    for name, network in method.networks.items():
        own = {key.removeprefix(f"{name}."): t for key, t in trained.items() if key.startswith(f"{name}.")}
        if match is not None:
            own = match.place_all(own, network, axes[name])
        counts[name] = _copy(network, own)
        if name in state.averages:
            _copy(state.averages[name].network, own)
        if match is not None and network is generator:
            exported = match.place_all(exported, network, axes[name])
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
    sentences = [f"{name}: {text} tensors {where}" for name, text in notes.items()]
    if match is not None:
        new = match.new()
        kept = len(match.target.names) - len(new)
        also = f"; new, from the mean of all: {', '.join(new)}" if new else ""
        sentences.append(f"classes: {kept} of {len(match.target.names)} {where}{also}")
    return sentences


def _match_classes(method: Method, file: Path) -> ClassMatch | None:
    """Return how classes are matched by name, or None if the label spaces have the same classes in the same order.

    Raises:
        CheckpointError: the model's `config.json` is damaged.
        ConfigError: `train.init_classes` names a class that one of the runs does not have.
    """
    target, chosen = method.label_space, method.config.train.init_classes
    if not file.is_file():
        return None
    try:
        source = LabelSpace.from_dict(json.loads(file.read_text(encoding="utf-8"))["label_space"], where=str(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"train.init_from: {file} cannot be read ({error}); take another checkpoint") from error
    for new, old in chosen.items():
        for name, space in ((new, target), (old, source)):
            if name not in space.names:
                raise ConfigError(
                    f"train.init_classes has '{new}: {old}', but label space '{space.name}' has no class '{name}'"
                    f"{did_you_mean(name, space.names)}"
                )
    same = source.names == target.names and (source.unknown_value is None) == (target.unknown_value is None)
    return None if same and not chosen else ClassMatch(source, target, chosen)


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
