"""Checks of a method's training step on a device, at a small size: precisions, checkpoints, compilation."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from _environment import TrainingSteps, in_turns, seconds
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.messages import setting_names
from lab2pix.config.schema import RunConfig
from lab2pix.methods import Progress, RandomSource, example_inputs
from lab2pix.recipes import load_config, preset_names
from lab2pix.training.checkpoint import load_checkpoint, write_checkpoint
from lab2pix.training.state import TrainingState
from lab2pix.utils.distributed import DistributedContext

__all__ = ["NARROW", "MethodCheck", "build", "narrowed", "small_config", "training_batch"]

CPU = torch.device("cpu")
NARROW = {
    "width": "2", "max_width": "4", "modulation_hidden": "2", "noise_dim": "4", "num_upsamples": "5",
    "segmenter.width": "4", "backbone.discriminator": "efficientnet-lite0", "backbone.perceptual": "efficientnet-lite0",
}  # fmt: skip
"""Settings of `--tiny`, by their last words."""
TOLERANCE = 1e-2
"""Largest difference of losses between devices, and between eager and compiled, as a share of a loss or of 1."""


# --- inputs -----------------------------------------------------------------------------------------------------------


def narrowed(config: RunConfig, names: dict[str, str]) -> RunConfig:
    """Return a configuration in which the settings that end in one of some names have other values."""
    paths = setting_names(type(config))
    found = [f"{path}={value}" for name, value in names.items() for path in paths if f".{path}".endswith(f".{name}")]
    return load_config(config, found)


def small_config(name: str, tiny: bool, settings: Sequence[str] = ()) -> RunConfig:
    """Return settings of a method for a check: its preset for small devices, or else its first one."""
    own = [preset for preset in preset_names() if load_config(preset).method == name]
    own.sort(key=lambda preset: not preset.endswith("-small"))
    config = load_config(own[0] if own else {"method": name, "data": {"size": [64, 64]}, "train": {"steps": 64}})
    # Dropout draws other numbers on another device.
    names = {"dropout": "0"} | (NARROW if tiny or not own or not own[0].endswith("-small") else {})
    fixed = ["train.batch_size=2", "train.accumulate=1", "data.instance_edges=false"]
    return load_config(narrowed(config, names), [*fixed, *settings])


def training_batch(steps: TrainingSteps, count: int, seed: int = 0) -> Batch:
    """Return random inputs and images on the device of a training step."""
    size = steps.config.data.size
    batch, _ = example_inputs(steps.state.method.sampling, size, count, seed)
    image = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return replace(batch, image=image).to(steps.device)


def build(config: RunConfig, device: torch.device) -> TrainingSteps:
    """Return the training step of a method, at a place in a run in which most of its phases take part."""
    steps = TrainingSteps(config, DistributedContext(0, 1, device), pretrained=False)
    phases, batch = steps.state.method.phases, config.train.batch_size
    places = [Progress(step, 64, 32 * batch, batch) for step in range(64)]
    progress = max(places, key=lambda place: sum(phase.when(place) for phase in phases))
    steps.context = replace(steps.context, progress=progress, random=DrawsOfCPU(device))
    return steps


class DrawsOfCPU(RandomSource):
    """Random draws that are the same on every device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(CPU)
        self.target = device

    def normal(self, count: int, *shape: int) -> Tensor:
        """See `RandomSource.normal`."""
        return super().normal(count, *shape).to(self.target)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """See `RandomSource.uniform`."""
        return super().uniform(count, *shape).to(self.target)

    def permutation(self, count: int) -> Tensor:
        """See `RandomSource.permutation`."""
        return super().permutation(count).to(self.target)


# --- checks -----------------------------------------------------------------------------------------------------------


def require(holds: bool, message: str) -> None:
    """Raise RuntimeError where a check does not hold."""
    if not holds:
        raise RuntimeError(message)


def weights(state: TrainingState) -> dict[str, Tensor]:
    """Return all tensors of a state that the next step depends on, but those of the loss scaling."""
    networks = {**state.method.networks, **{f"average.{key}": one.network for key, one in state.averages.items()}}
    found = {f"{key}.{part}": value for key, net in networks.items() for part, value in net.state_dict().items()}
    for key, optimizer in state.optimizers.items():
        entries = optimizer.state_dict()["state"]
        found |= {f"{key}.{row}.{part}": value for row, own in entries.items() for part, value in own.items()}
    return found | state.method.extra_state()


def step_losses(steps: TrainingSteps, batch: Batch, seed: int = 0) -> dict[str, float]:
    """Make one step from given random draws, and return its losses."""
    torch.manual_seed(seed)
    return {f"{phase}.{name}": float(loss) for phase, own in steps(batch).items() for name, loss in own.items()}


def largest_difference(losses: dict[str, float], reference: dict[str, float]) -> float:
    """Return the largest difference of two steps' losses, each as a share of the loss or of 1."""
    require(losses.keys() == reference.keys(), f"the losses are {sorted(losses)}, not {sorted(reference)}")
    return max(abs(losses[name] - value) / max(1.0, abs(value)) for name, value in reference.items())


class MethodCheck:
    """Checks of one method.

    Args:
        name: the method.
        device: where it is trained.
        tiny: with networks of width 2 to 4.
    """

    def __init__(self, name: str, device: torch.device, tiny: bool) -> None:
        self.device = device
        self.config = partial(small_config, name, tiny)

    @cached_property
    def reference(self) -> dict[str, float]:
        """Losses of the first step in float32 on the CPU."""
        steps = build(self.config(), CPU)
        return step_losses(steps, training_batch(steps, 2))

    def step(self, precision: str) -> Iterator[dict[str, Any]]:
        """Check that steps change the weights of every phase's networks and keep them finite."""
        steps = build(self.config([f"train.precision={precision}"]), self.device)
        batch = training_batch(steps, 2)
        optimizers = steps.state.optimizers
        phases = [phase for phase in steps.state.method.phases if phase.when(steps.context.progress)]
        pending = {
            name: [p.detach().clone() for group in optimizers[name].param_groups for p in group["params"]]
            for phase in phases
            for name in phase.optimizers
        }
        with torch.backends.cudnn.flags(allow_tf32=False):
            difference = largest_difference(step_losses(steps, batch), self.reference)
        require(precision != "fp32" or difference <= TOLERANCE, f"losses differ from the CPU's by {difference:.1e}")
        count = 1
        while count < 2 or (pending and count < 40):  # loss scaling leaves out the steps that overflow
            step_losses(steps, batch, count)
            count += 1
            pending = {name: old for name, old in pending.items() if not self._moved(optimizers[name], old)}
        require(not pending, f"no weights of optimizer {', '.join(pending)} change in {count} steps")
        broken = [name for name, tensor in weights(steps.state).items() if not bool(tensor.isfinite().all())]
        require(not broken, f"{', '.join(broken[:3])} not finite after {count} steps")
        note = f"losses differ by {difference:.1e} from float32 on the CPU; {count} steps"
        scale = {"scale": steps.state.scaler.get_scale()} if precision == "fp16" else {}
        yield {"precision": precision, "difference": difference, "steps": count, **scale, "note": note}

    @staticmethod
    def _moved(optimizer: torch.optim.Optimizer, old: Sequence[Tensor]) -> bool:
        now = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return any(not torch.equal(one, other) for one, other in zip(now, old, strict=True))

    def resume(self) -> Iterator[dict[str, Any]]:
        """Check that a loaded checkpoint is what was written, and that the next step is the same.

        Where kernels of the device do not repeat their own bits, two runs from the checkpoint show by how much, and the
        run that was not interrupted may differ from them by four times as much.
        """
        with repeatable(), tempfile.TemporaryDirectory() as folder:
            first, *others = (build(self.config(), self.device) for _ in range(3))
            step_losses(first, training_batch(first, 2), 0)
            path = write_checkpoint(Path(folder), first.state)
            for other in others:
                load_checkpoint(path, other.state)
                difference = distance(first.state, other.state)
                require(difference == 0, f"a loaded checkpoint differs from the written one by {difference:.1e}")
            for steps in (first, *others):
                step_losses(steps, training_batch(steps, 2, seed=1), 1)
        difference, repeated = distance(first.state, others[0].state), distance(others[0].state, others[1].state)
        require(difference <= 4 * repeated, f"the next step differs by {difference:.1e}; repeated, by {repeated:.1e}")
        note = "the next step is the same" if not difference else f"differs by {difference:.1e}, as its repetition does"
        yield {"precision": "resume", "difference": difference, "repeated": repeated, "note": note}

    def compiled(self) -> Iterator[dict[str, Any]]:
        """Check that compiled networks have the losses of eager ones."""
        steps = build(self.config(["train.compile=true"]), self.device)
        batch = training_batch(steps, 2)
        with torch.backends.cudnn.flags(allow_tf32=False):
            start = time.monotonic()
            difference = largest_difference(step_losses(steps, batch), self.reference)
            taken = time.monotonic() - start
        require(difference <= TOLERANCE, f"losses differ from eager ones by {difference:.1e}")
        then = in_turns({"": partial(steps, batch)}, 3, partial(seconds, self.device))[""]
        note = f"losses differ by {difference:.1e} from eager ones; {taken:.0f} s to compile"
        yield {"difference": difference, "compile_s": taken, "seconds": then, "note": note}

    def size(self) -> int:
        """Return how many weights the method has."""
        networks = build(self.config(), CPU).state.method.networks
        return sum(parameter.numel() for network in networks.values() for parameter in network.parameters())


@contextmanager
def repeatable() -> Iterator[None]:
    """Take kernels that repeat their bits, where there are any."""
    with warnings.catch_warnings(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def distance(one: TrainingState, other: TrainingState) -> float:
    """Return the largest difference of any number of two states; infinite where one has other numbers."""
    mine, theirs = weights(one), weights(other)
    if mine.keys() != theirs.keys() or one.scaler.state_dict() != other.scaler.state_dict():
        return float("inf")
    return max(float((mine[key].double() - theirs[key].double()).abs().max()) for key in mine if mine[key].numel())
