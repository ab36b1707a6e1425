"""Method interface: the contract with code that trains, saves and samples a method.

A method is one file with its settings (`Config`), its networks, and one backward function per phase of a step
(`Phase`). The training loop owns the rest: optimizers, precision, accumulation, processes, EMA and checkpoints.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.errors import CheckpointError
from lab2pix.interop.conversion import CheckpointFormat
from lab2pix.interop.vectors import Row, Vectors, failure
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.sampling import Sampling
from lab2pix.methods.schedules import Progress, constant

__all__ = [
    "PRECISIONS",
    "Averaging",
    "Losses",
    "Method",
    "OptimizerSpec",
    "Phase",
    "Progress",
    "RandomSource",
    "Sampling",
    "StepContext",
    "always",
    "every",
    "require_images",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of forward passes, by value of `train.precision`."""

Losses = dict[str, Tensor]
"""Weighted loss terms of one phase by name: detached scalars on the training device."""


class RandomSource:
    """Random numbers of a step in addition to its noise, such as further noise, flips, masks and image pools.

    Here they come from torch's global generators. The loop seeds those of `normal` and `uniform` by sample and those of
    `shared_uniform` and `permutation` by step, so that they do not depend on the number of processes. Parity tests
    replay recorded numbers. Both do so through a subclass.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def of_samples(self, start: int, stop: int) -> RandomSource:
        """Return the source of samples `start` to `stop - 1` of this process, which make a micro-batch."""
        return self

    def normal(self, count: int, *shape: int) -> Tensor:
        """Return float32 samples of N(0, 1), `[count, *shape]`, a row per sample of the micro-batch."""
        return torch.randn(count, *shape, device=self.device)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Return float32 samples of U[0, 1), `[count, *shape]`, a row per sample of the micro-batch."""
        return torch.rand(count, *shape, device=self.device)

    def shared_uniform(self, count: int) -> Tensor:
        """Return float32 samples of U[0, 1), `[count]`, the same for all samples of a step."""
        return self.uniform(count)

    def permutation(self, count: int) -> Tensor:
        """Return a random permutation of 0 to `count - 1`, int64, the same for all samples of a step."""
        return torch.randperm(count, device=self.device)


@dataclass(frozen=True)
class StepContext:
    """Context of a phase's forward and backward passes; the defaults are float32, one micro-batch, the first step.

    Attributes:
        autocast: returns a context manager for forward passes in the run's precision.
        scale: scales a loss before its backward pass (accumulation, fp16 loss scaling). Do not apply it to the inner
            gradient of a gradient penalty.
        progress: position of the step in the run.
        cache: values of one micro-batch, passed from phase to phase and cleared after the step. Tensors in it can have
            a graph, but the graphs of all micro-batches then stay in memory until the later phase: keep a graph only
            if `micro_batches` is 1, and recompute the pass otherwise.
        micro_batches: number of micro-batches in the step.
        random: random numbers in addition to the noise.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    scale: Callable[[Tensor], Tensor] = field(default=lambda loss: loss)
    progress: Progress = field(default_factory=Progress)
    cache: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 1
    random: RandomSource = field(default_factory=RandomSource)


def always(progress: Progress) -> bool:
    """Run a phase in every step."""
    return True


def every(interval: int) -> Callable[[Progress], bool]:
    """Run a phase in every `interval`-th step, first in step `interval - 1` (from 0)."""
    return lambda progress: (progress.step + 1) % interval == 0


def require_images(batch: Batch) -> Tensor:
    """Return the images of a batch that must have some, `[N, 3, H, W]`."""
    if batch.image is None:
        raise ValueError("training needs images")
    return batch.image


@dataclass(frozen=True)
class OptimizerSpec:
    """Specification of an Adam optimizer.

    Attributes:
        networks: keys of `Method.networks` whose parameters it updates, in this order. Parameters with
            `requires_grad=False` are left out; this is how a method declares those that never get a gradient.
        lr: learning rate before the schedule.
        betas: decay rates of Adam's moment estimates.
        weight_decay: L2 penalty added to the gradient.
        schedule: factor of the learning rate.
        pattern: regular expression matched at the start of parameter names within `networks`; "" for all.
    """

    networks: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    schedule: Callable[[Progress], float] = constant
    pattern: str = ""

    def parameters(self, networks: Mapping[str, nn.Module]) -> list[nn.Parameter]:
        """Return the parameters that the optimizer updates.

        Args:
            networks: `Method.networks`.
        """
        named = (item for name in self.networks for item in networks[name].named_parameters())
        return [parameter for name, parameter in named if parameter.requires_grad and re.match(self.pattern, name)]


@dataclass(frozen=True)
class Phase:
    """A backward pass and the optimizers that step after it.

    The loop runs phases in order. For each it calls `backward` once per micro-batch, averages the gradients over
    processes, checks that all losses are finite, steps the optimizers, and clears all gradients. `backward` can run any
    network any number of times, as networks are not wrapped. Networks that are not updated should be frozen
    (`backprop.frozen`), so that no unused gradients are computed.

    Attributes:
        name: prefix of its losses in the log; unique within the method.
        backward: fills gradients for one micro-batch, given the batch, its noise (None if `Sampling` has none) and
            the context; returns the detached loss terms.
        optimizers: keys of `Method.optimizers`.
        when: whether the phase runs in a step. With several optimizers over the same parameters this gives training
            stages; each optimizer starts with a fresh state.
    """

    name: str
    backward: Callable[[Batch, Tensor | None, StepContext], Losses]
    optimizers: tuple[str, ...]
    when: Callable[[Progress], bool] = always


@dataclass(frozen=True)
class Averaging:
    """Exponential moving average (EMA) of a network's weights, used if `train.ema_decay` is set.

    Attributes:
        buffers: whether buffers (batch statistics, singular vectors) are copied from the network or averaged, too.
        warmup: use a smaller decay in early steps, so that initial weights are forgotten.
    """

    buffers: Literal["copy", "average"] = "copy"
    warmup: bool = True


class Method(ABC):
    """Base class of methods: networks, losses, and sampling.

    Args:
        config: configuration of the run, an instance of `Config`.
        label_space: label space of the class ids.
        pretrained: whether to load pretrained weights of frozen feature extractors; otherwise they are random.

    Attributes:
        networks: networks to train and save, by name; names are prefixes in checkpoints. All parameters must exist
            after construction: infer widths that depend on features from a forward pass of zeros.
        sampling: how images are generated.
    """

    name: ClassVar[str]
    systems: ClassVar[tuple[str, ...]] = ()
    """First words of `system` in vector files of the method; empty: its name."""
    Config: ClassVar[type[RunConfig]]
    paired: ClassVar[bool] = True
    """Whether training uses pairs of input and image; otherwise images are random."""
    averaged: ClassVar[Mapping[str, Averaging]] = {"generator": Averaging()}
    """Networks with an EMA of their weights if `train.ema_decay` is set."""
    plain_networks: tuple[str, ...] = ()
    """Networks under a gradient penalty (differentiated twice): they are neither accelerated nor compiled."""

    networks: Mapping[str, nn.Module]

    def __init__(self, config: RunConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        del pretrained
        self.config = config
        self.label_space = label_space
        self.sampling = self.build_sampling(config, label_space)

    # --- sampling ---------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def build_sampling(cls, config: Any, label_space: LabelSpace) -> Sampling:
        """Return the sampling of a configuration, without building networks."""

    @classmethod
    @abstractmethod
    def build_generator(cls, config: Any, label_space: LabelSpace) -> nn.Module:
        """Return the generator with initial weights; its state dict is the exported model."""

    def sampling_generator(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """Return the module that corresponds to `build_generator`, from trained or averaged networks."""
        return networks["generator"]

    @property
    def refresh_batches(self) -> int:
        """Number of training batches for `refresh` before the generator is scored or saved; 0: it is not called."""
        return 0

    def refresh(self, generator: nn.Module, batches: Iterable[tuple[Batch, Tensor | None]]) -> None:
        """Re-estimate state that is not trained, such as batch statistics or cluster centers.

        Args:
            generator: temporary copy to be scored or saved; training does not see the change.
            batches: training batches with their noise, the same in each call.
        """
        raise NotImplementedError

    # --- training ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def optimizers(self) -> Mapping[str, OptimizerSpec]:
        """The optimizers, by name."""

    @property
    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of a step, in order."""

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The modules that `train.compile` compiles separately."""
        return [network for name, network in self.networks.items() if name not in self.plain_networks]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move networks and other modules and tensors of the method to a device."""
        for network in self.networks.values():
            network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    def extra_state(self) -> dict[str, Tensor]:
        """Return further state of this process that training depends on, such as image pools."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `extra_state` returned.

        Raises:
            CheckpointError: the state does not match the method.
        """
        if state:
            raise CheckpointError(f"method '{self.name}' keeps no further state, but there is {', '.join(state)}")

    def class_offset(self, network: str, tensor: str) -> int:
        """Return the number of places before the first class, in a tensor with a dimension of classes.

        Args:
            network: name of the network.
            tensor: name of its tensor, such as the weight of a first convolution, whose input channels are classes.
        """
        return 0

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores that `validation_scores` returns."""
        return ()

    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return scores (mean over the batch) of images generated from held-out inputs; lower is better."""
        return {}

    def feature_networks(self) -> Mapping[str, str]:
        """Return the setting that names each feature network of the losses, by name of the network."""
        return {}

    # --- checkpoints and vector files of other programs -------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the checkpoint formats of other programs that `lab2pix convert` supports, by name."""
        return {}

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Return whether a vector file belongs to this method: whether the first word of `system` names it.

        A vector file has inputs, weights and results recorded from official code (`lab2pix.interop.vectors`), with
        which `lab2pix parity` compares this package.
        """
        words = str(vectors.values.get("system", "")).lower().split()
        return bool(words) and words[0] in (cls.systems or (cls.name,))

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Yield a row per recorded output of a vector file.

        Args:
            vectors: content of the vector file.
            fast: whether to compare accelerated or fused networks, if supported.
        """
        yield failure("system", f"method '{cls.name}' reads no vector files")
