"""The contract between a method and everything that trains, saves and samples it.

A method is one file: its settings (`Config`), its networks, and one function per optimizer step (`Phase`) that fills
gradients. The training loop owns the rest: optimizers, precision, accumulation, processes, averages, checkpoints.
"""

from __future__ import annotations

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
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Data type of the forward passes, by the name that `train.precision` has for it."""

Losses = dict[str, Tensor]
"""Named terms of one phase's loss, weighted as they enter its sum: detached scalars on the training device."""


class RandomSource:
    """Random draws of a step beyond its noise: more noise, mirroring, masks, pools.

    They come from torch's global generators, which the loop seeds before each step. A parity test replays recorded
    draws through a subclass.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def normal(self, *shape: int) -> Tensor:
        """Return float32 draws from N(0, 1)."""
        return torch.randn(shape, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 draws from [0, 1)."""
        return torch.rand(shape, device=self.device)

    def permutation(self, count: int) -> Tensor:
        """Return the numbers from 0 to `count - 1` in random order, int64."""
        return torch.randperm(count, device=self.device)


@dataclass(frozen=True)
class StepContext:
    """How a phase runs its passes; the defaults are float32, one micro-batch, the first step.

    Attributes:
        autocast: opens a context for forward passes in the run's precision.
        scale: multiplies a loss before its backward pass (accumulation, fp16 loss scaling). A gradient penalty's
            inner gradient is taken without it.
        progress: where in the run the step is.
        cache: of one micro-batch, handed from phase to phase and dropped after the step. It may hold tensors with
            their graph: then every micro-batch's graph is kept until the later phase, so a method whose later phase
            needs the graph keeps it where `micro_batches` is 1 and computes the pass again otherwise.
        micro_batches: how many micro-batches the step has.
        random: draws beyond the noise.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    scale: Callable[[Tensor], Tensor] = field(default=lambda loss: loss)
    progress: Progress = field(default_factory=Progress)
    cache: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 1
    random: RandomSource = field(default_factory=RandomSource)


def always(progress: Progress) -> bool:
    """Return true: a phase of every step."""
    return True


def every(interval: int) -> Callable[[Progress], bool]:
    """Return a test that is true at each `interval`-th step, first at step `interval - 1` (counted from 0)."""
    return lambda progress: (progress.step + 1) % interval == 0


@dataclass(frozen=True)
class OptimizerSpec:
    """An Adam optimizer.

    Attributes:
        networks: keys of `Method.networks` whose parameters it updates, in this order. Parameters without
            `requires_grad` are left out: so a method declares those that never get a gradient.
        lr: learning rate before the schedule.
        betas: decay rates of Adam's two averages.
        weight_decay: L2 term that is added to the gradient.
        schedule: factor of the learning rate.
        pattern: regular expression that a parameter's name within `networks` starts with; "" for all.
    """

    networks: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    schedule: Callable[[Progress], float] = constant
    pattern: str = ""


@dataclass(frozen=True)
class Phase:
    """One backward pass and the optimizers that step after it.

    The loop runs phases in their order. For each it calls `backward` once per micro-batch, averages the gradients over
    processes, checks that all losses are finite, lets the optimizers step, and drops all gradients. `backward` may pass
    through any network as often as it likes: networks are not wrapped. Networks that it only reads stay frozen
    (`frozen`), so that no gradient is computed in vain.

    Attributes:
        name: of its losses in the log; unique within the method.
        backward: fills gradients for one micro-batch, given the batch, its noise (None where `Sampling` has none) and
            the context; returns the loss terms, detached.
        optimizers: keys of `Method.optimizers`.
        when: whether the phase is part of a step. Together with several optimizers over the same parameters it makes
            stages in time: an optimizer that has not stepped yet is a fresh one.
    """

    name: str
    backward: Callable[[Batch, Tensor | None, StepContext], Losses]
    optimizers: tuple[str, ...]
    when: Callable[[Progress], bool] = always


@dataclass(frozen=True)
class Averaging:
    """How the moving average of a network's weights is kept, where `train.ema_decay` is set.

    Attributes:
        buffers: batch statistics and singular vectors are the network's (`copy`), or averaged like weights.
        warmup: early steps keep less of the average, so that the first weights fade.
    """

    buffers: Literal["copy", "average"] = "copy"
    warmup: bool = True


class Method(ABC):
    """Networks, what they minimize, and how images are sampled.

    Args:
        config: the run, an instance of `Config`.
        label_space: what class ids mean.
        pretrained: false leaves frozen feature extractors at random weights.

    Attributes:
        networks: what is trained and saved, by name; the names are prefixes in a checkpoint. All parameters exist
            after construction; widths that depend on features are read off a pass of zeros.
        sampling: how images are made.
    """

    name: ClassVar[str]
    Config: ClassVar[type[RunConfig]]
    paired: ClassVar[bool] = True
    """Whether each input comes with its own image; otherwise they meet at random."""
    averaged: ClassVar[Mapping[str, Averaging]] = {"generator": Averaging()}
    """Networks whose moving average is kept where `train.ema_decay` is set."""
    plain_networks: ClassVar[tuple[str, ...]] = ()
    """Networks that a gradient penalty differentiates twice: they are neither accelerated nor compiled."""

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
        """Return how a configured method samples, without its networks."""

    @classmethod
    @abstractmethod
    def build_generator(cls, config: Any, label_space: LabelSpace) -> nn.Module:
        """Return what samples, with initial weights; its state dict is the exported model."""

    def sampling_generator(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """Return the module of `build_generator` over the weights of trained or averaged networks."""
        return networks["generator"]

    @property
    def refresh_batches(self) -> int:
        """How many training batches `refresh` is given before the generator is scored or saved; 0: it is not called."""
        return 0

    def refresh(self, generator: nn.Module, batches: Iterable[tuple[Batch, Tensor | None]]) -> None:
        """Estimate again what weights alone do not say: batch statistics, cluster centers.

        Args:
            generator: a copy that is scored or saved and then dropped; training goes on without the change.
            batches: the same training batches each time, with their noise.
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
        """The modules that `train.compile` compiles, each as a program of its own."""
        return [network for name, network in self.networks.items() if name not in self.plain_networks]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move networks, and whatever else passes need, to a device."""
        for network in self.networks.values():
            network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    def extra_state(self) -> dict[str, Tensor]:
        """Return what the next step depends on beside weights and optimizers, such as image pools; of this process."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `extra_state` returned.

        Raises:
            CheckpointError: the state is of something else.
        """
        if state:
            raise CheckpointError(f"method '{self.name}' keeps no further state, but there is {', '.join(state)}")

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """What `validation_scores` will return."""
        return ()

    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return scores (mean over the batch) of images generated from held-out inputs; lower is better."""
        return {}

    def feature_networks(self) -> Mapping[str, str]:
        """Return the feature networks that losses look through, with the settings that name them."""
        return {}

    # --- checkpoints and vector files of other programs -------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the other programs' checkpoints that `lab2pix convert` turns into this method's, by name."""
        return {}

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Return whether a vector file is of this method: whether its `system` begins with the method's name."""
        words = str(vectors.values.get("system", "")).lower().split()
        return words[:1] == [cls.name]

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Yield a row per recorded output of a vector file.

        Args:
            vectors: the file's content.
            fast: compare accelerated or fused networks, where there are any.
        """
        yield failure("system", f"method '{cls.name}' reads no vector files")
