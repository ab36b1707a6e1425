"""Contract checks of a method on a small configuration, in a few seconds."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError
from lab2pix.inference.export import export
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.inference.weights import ModelInfo
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, Progress, example_inputs, generate_deterministic
from lab2pix.training.checkpoint import load_checkpoint, write_checkpoint
from lab2pix.training.class_weights import ClassMatch, class_axes
from lab2pix.training.sampler import SampleRandom
from lab2pix.training.state import TrainingState, build_state, set_learning_rates
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext, init_distributed

_CPU = torch.device("cpu")
_ALONE = DistributedContext(0, 1, _CPU)
_BATCH = 2


def check_method(cls: type[Method], config: RunConfig | None = None, label_space: LabelSpace | None = None) -> None:
    """Check that a method satisfies the contract in one process; see `check_processes` for two.

    Args:
        cls: the method.
        config: small instance of its `Config`: narrow networks, small images; None: its defaults, which may be large.
        label_space: the label space; None: `data.label_space` of the configuration.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    config = cls.Config() if config is None else config
    space = label_space or LabelSpace.load(config.data.label_space)
    _check_config(cls, config)
    _check_gradients(cls, config, space)
    _check_resume(cls, config, space)
    _check_bfloat16(cls, config, space)
    _check_sampling(cls, config, space)


def check_processes(cases: Sequence[tuple[type[Method], RunConfig]]) -> None:
    """Check that methods train in two processes: both end with the same finite weights.

    Args:
        cases: methods, each with a small configuration; one launch of two processes trains all of them.

    Raises:
        AssertionError: weights differ between the processes, or are not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            _train_in_process, (list(cases), folder), nprocs=2
        )
        for index, (cls, _) in enumerate(cases):
            ours, theirs = (torch.load(Path(folder, f"{index}-{rank}.pt"), weights_only=True) for rank in range(2))
            for name, tensor in ours.items():
                _require(
                    cls, bool(tensor.isfinite().all()), f"weight '{name}' is not finite after two processes' steps"
                )
                _require(cls, torch.equal(tensor, theirs[name]), f"weight '{name}' differs between two processes")


def _train_in_process(rank: int, cases: Sequence[tuple[type[Method], RunConfig]], folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        with init_distributed("cpu") as dist:
            for index, (cls, config) in enumerate(cases):
                state = _state(cls, config, LabelSpace.load(config.data.label_space))
                for step in range(2):
                    _step(state, _inputs(state.method, seed=2 * step + rank), dist)
                # Batch-norm statistics differ between processes until the next step begins.
                dist.broadcast_buffers([*state.method.networks.values(), *state.sampling_networks.values()])
                torch.save(dict(_weights(state)), Path(folder, f"{index}-{rank}.pt"))
    finally:
        distributed.destroy_process_group()


# --- parts ------------------------------------------------------------------------------------------------------------


def _require(cls: type[Method], holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(f"{cls.__name__}: {message}")


def _state(cls: type[Method], config: RunConfig, space: LabelSpace, seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    method = cls(config, space, pretrained=False)
    method.to(_CPU)
    return build_state(method, _CPU)


def _inputs(method: Method, seed: int = 0) -> tuple[Batch, Tensor | None]:
    size = method.config.data.size
    batch, noise = example_inputs(method.sampling, size, _BATCH, seed)
    image = torch.rand(_BATCH, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return replace(batch, image=image), noise


def _step(state: TrainingState, inputs: tuple[Batch, Tensor | None], dist: DistributedContext = _ALONE) -> None:
    progress = Progress(state.step, 4, _BATCH * 2, _BATCH)
    set_learning_rates(state, progress)
    torch.manual_seed(state.step)
    micro_batches = [inputs] * state.method.config.train.accumulate
    random = SampleRandom(0, state.step, range(len(micro_batches) * _BATCH), _CPU)
    training_step(
        state, micro_batches, replace(build_step_context(state, _CPU), progress=progress, random=random), dist
    )


def _weights(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    averages = {f"average.{name}": average.network for name, average in state.averages.items()}
    for name, network in {**state.method.networks, **averages}.items():
        yield from ((f"{name}.{key}", tensor) for key, tensor in network.state_dict().items())


def _check_config(cls: type[Method], config: RunConfig) -> None:
    _require(cls, isinstance(config, cls.Config), f"the configuration is not a {cls.Config.__name__}")
    _require(cls, config.method == cls.name, f"its Config says method '{config.method}', but its name is '{cls.name}'")
    saved = json.loads(json.dumps(config.model_dump(mode="json")))
    _require(cls, cls.Config.model_validate(saved) == config, "a saved configuration is read back as another one")


def _gradients(state: TrainingState, scale: float) -> dict[str, dict[str, Tensor]]:
    """Return the gradients of each phase's backward pass, by phase and parameter, without optimizer steps."""
    method, found = state.method, {}
    names = {p: f"{key}.{name}" for key, net in method.networks.items() for name, p in net.named_parameters()}
    torch.manual_seed(0)
    # Choose the step in which most phases run.
    at = [Progress(step, 64, 32 * _BATCH, _BATCH) for step in range(64)]
    progress = max(at, key=lambda place: sum(phase.when(place) for phase in method.phases))
    context = replace(build_step_context(state, _CPU), progress=progress, scale=lambda loss: loss * scale)
    for phase in method.phases:
        losses = phase.backward(*_inputs(method), context)
        _require(type(method), bool(losses), f"phase '{phase.name}' returns no losses")
        kept = [name for name, value in losses.items() if value.requires_grad or value.ndim]
        _require(type(method), not kept, f"losses {kept} of phase '{phase.name}' are not detached scalars")
        found[phase.name] = {names[p]: p.grad.clone() for p in names if p.grad is not None}
        for parameter in names:
            parameter.grad = None
    return found


def _check_gradients(cls: type[Method], config: RunConfig, space: LabelSpace) -> None:
    state = _state(cls, config, space)
    method = state.method
    names = {p: f"{key}.{name}" for key, net in method.networks.items() for name, p in net.named_parameters()}
    learned = {
        name: {names[p] for group in optimizer.param_groups for p in group["params"]}
        for name, optimizer in state.optimizers.items()
    }
    everything = {name for parameter, name in names.items() if parameter.requires_grad}
    missing = everything - set().union(*learned.values())
    _require(cls, not missing, f"no optimizer updates {_some(missing)}; freeze them, or add them to one")
    _require(cls, len({phase.name for phase in method.phases}) == len(method.phases), "two phases have the same name")
    once = _gradients(state, 1.0)
    filled: dict[str, set[str]] = {name: set() for name in learned}
    for phase in method.phases:
        own = set().union(*(learned[name] for name in phase.optimizers))
        others = set(once[phase.name]) - own
        _require(cls, not others, f"phase '{phase.name}' fills gradients of {_some(others)}, which it does not update")
        for name in phase.optimizers:
            filled[name] |= set(once[phase.name])
    for name, parameters in learned.items():
        _require(cls, parameters <= filled[name], f"no phase fills gradients of {_some(parameters - filled[name])}")
    for phase_name, gradients in _gradients(_state(cls, config, space), 4.0).items():
        for name, gradient in gradients.items():
            expected = 4 * once[phase_name][name]
            near = float((gradient - expected).norm()) <= 1e-2 * float(expected.norm()) + 1e-6
            _require(cls, near, f"gradient of '{name}' in phase '{phase_name}' ignores the context's scale")


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _check_resume(cls: type[Method], config: RunConfig, space: LabelSpace) -> None:
    state = _state(cls, config, space)
    _step(state, _inputs(state.method))
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(Path(folder), state)
        other = _state(cls, config, space, seed=1)
        load_checkpoint(path, other)
    for one in (state, other):
        _step(one, _inputs(one.method, seed=1))
    for (name, mine), (_, theirs) in zip(_weights(state), _weights(other), strict=True):
        _require(cls, torch.equal(mine, theirs), f"'{name}' differs after a checkpoint was loaded and a step made")
    ours, loaded = state.method.extra_state(), other.method.extra_state()
    same = ours.keys() == loaded.keys() and all(torch.equal(ours[name], loaded[name]) for name in ours)
    _require(cls, same, "extra_state differs after a checkpoint was loaded and a step made")


def _check_bfloat16(cls: type[Method], config: RunConfig, space: LabelSpace) -> None:
    train = config.train.model_copy(update={"precision": "bf16"})
    state = _state(cls, config.model_copy(update={"train": train}), space)
    _step(state, _inputs(state.method))
    broken = {name for name, tensor in _weights(state) if not bool(tensor.isfinite().all())}
    _require(cls, not broken, f"{_some(broken)} not finite after a step in bfloat16")


def _check_sampling(cls: type[Method], config: RunConfig, space: LabelSpace) -> None:
    state = _state(cls, config, space)
    sampling, size = state.method.sampling, config.data.size
    sampling.check_size(*size)
    trained = state.sampling_generator
    generator = cls.build_generator(config, space).eval().requires_grad_(False)
    names = set(trained.state_dict()), set(generator.state_dict())
    _require(cls, names[0] == names[1], "build_generator and sampling_generator have different weights")
    generator.load_state_dict(trained.state_dict())
    before = copy.deepcopy(generator.state_dict())
    batch, noise = example_inputs(sampling, size, 3)
    together = generate_deterministic(generator, sampling, batch, noise)
    _require(cls, len(together) == sampling.outputs, f"the generator returns {len(together)} images")
    _require(cls, together[0].shape == (3, 3, *size), f"images are {list(together[0].shape)}")
    _require(cls, bool((together[0].abs() <= 1).all()), "images leave [-1, 1]")
    for row in range(3):
        own = None if noise is None else noise[row : row + 1]
        alone = generate_deterministic(generator, sampling, batch[row : row + 1], own)
        near = all(torch.allclose(a, t[row : row + 1], atol=1e-5) for a, t in zip(alone, together, strict=True))
        _require(cls, near, "an image depends on the others of its batch")
    if sampling.style == "optional":
        free = generate_deterministic(generator, sampling, replace(batch, style=None), noise)
        _require(cls, not torch.equal(free[0], together[0]), "the style image has no effect")
    after = generator.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    _require(cls, not moved, f"sampling changes {_some(moved)}")
    _check_classes(cls, config, space, generator)
    _check_export(cls, generator, ModelInfo(config, space, 0))


def _check_classes(cls: type[Method], config: RunConfig, space: LabelSpace, generator: nn.Module) -> None:
    """Check that a generator draws the same from the same label map after its classes are reordered."""
    order = list(range(space.num_classes))[::-1]
    sampling = cls.build_sampling(config, space)
    if sampling.condition.source != "labels" or sampling.condition.encoding != "one-hot" or sampling.mode == "train":
        return
    other = replace(space, classes=tuple(space.classes[place] for place in order), file_offset=0, evaluation=None)
    method = cls(config, other, pretrained=False)
    reordered = method.sampling_generator(method.networks).eval()
    axes = next((axes for name, axes in class_axes(method).items() if method.networks[name] is reordered), None)
    if not axes:  # a combination of networks, or one that does not depend on the number of classes
        return
    before = generator.state_dict()
    state = ClassMatch(space, other, {}).place_all(before, reordered, axes)
    lost = before.keys() - state.keys()
    _require(cls, not lost, f"classes of {_some(lost)} cannot be reordered")
    reordered.load_state_dict(state)
    inputs, noise = example_inputs(sampling, config.data.size, 1)
    table = torch.tensor([*order, space.num_classes])
    one = generate_deterministic(generator, sampling, inputs, noise)
    two = generate_deterministic(
        reordered, cls.build_sampling(config, other), replace(inputs, label=table[inputs.label]), noise
    )
    _require(cls, torch.allclose(one[0], two[0], atol=1e-4), "class_offset is not where classes begin")


def _check_export(cls: type[Method], generator: nn.Module, info: ModelInfo) -> None:
    synthesizer = Synthesizer(generator, info, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        saved = Synthesizer.load(synthesizer.save(Path(folder, "saved")), device="cpu")
        _require(cls, saved.config == info.config, "a saved model is loaded with other settings")
        try:
            export(synthesizer, Path(folder, "program.pt2"), form="torch")
        except ConfigError:
            if synthesizer.sampling.mode == "eval":
                raise
