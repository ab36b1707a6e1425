"""Replay of two recorded training steps of a generator and a discriminator, for parity checks.

SPADE, CC-FPSE, TSIT and Pix2PixHD use it; the other methods `lab2pix.methods.step_record`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.interop.keymap import Rules, weight_names
from lab2pix.interop.two_step_vectors import LayerFeature, TwoStepResults
from lab2pix.methods.base import Losses, OptimizerSpec, Phase, StepContext
from lab2pix.methods.step_record import RecordedRandom, collected_outputs
from lab2pix.nn.discriminators import ScaleOutput


class ReplayableMethod(Protocol):
    """Method with a network "discriminator" whose losses in the generator phase are a function of their own."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks, by name."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The generator phase, then the discriminator phase."""

    @property
    def optimizers(self) -> Mapping[str, OptimizerSpec]:
        """The optimizers, by name."""

    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return the weighted terms of the generator phase with their graph, which includes the discriminator."""

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the discriminator's losses, and return the weighted terms."""


@dataclass(frozen=True)
class RecordedNetwork:
    """A network of a vector file.

    Attributes:
        network: the network or a part of one.
        rules: rules from our names of its weights to those in the file.
        without: beginning of the names of weights that belong to another network of the file; "" if there are none.
    """

    network: nn.Module
    rules: Rules
    without: str = ""

    def _named(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        names = weight_names(self.network, self.rules)
        for name, tensor in tensors:
            if not self.without or not name.startswith(self.without):
                yield names[name], tensor

    def state(self) -> dict[str, Tensor]:
        """Return a copy of weights and buffers under their names in the file."""
        return {name: tensor.detach().clone() for name, tensor in self._named(iter(self.network.state_dict().items()))}

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of each parameter's gradient under its name in the file."""
        return {
            name: 0.0 if parameter.grad is None else parameter.grad.double().norm().item()
            for name, parameter in self._named(self.network.named_parameters())
        }


@dataclass
class DiscriminatorRecord:
    """Outputs of the discriminators in the generator phase, under their names in a vector file.

    Attributes:
        outputs: predictions, without the prefix `out.`.
        features: outputs of the layers, by discriminator.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, list[LayerFeature]] = field(default_factory=dict)


def record_scales(of_fake: Sequence[ScaleOutput], of_real: Sequence[ScaleOutput]) -> DiscriminatorRecord:
    """Return the record of PatchGANs: predictions `D0.pred.fake`, ..., and features with the prediction as the last.

    Args:
        of_fake: outputs for fake images, largest scale first.
        of_real: outputs for real images.
    """
    record = DiscriminatorRecord()
    for scale, (fake, real) in enumerate(zip(of_fake, of_real, strict=True)):
        record.outputs[f"D{scale}.pred.fake"] = fake.predictions[-1].detach()
        record.outputs[f"D{scale}.pred.real"] = real.predictions[-1].detach()
        layers = zip([*fake.features, *fake.predictions], [*real.features, *real.predictions], strict=True)
        record.features[f"D{scale}"] = [layer_feature(*pair) for pair in layers]
    return record


def layer_feature(fake: Tensor, real: Tensor) -> LayerFeature:
    """Return shape and norms of a layer's output for fake and for real images."""
    return LayerFeature(tuple(fake.shape), fake.double().norm().item(), real.double().norm().item())


@dataclass(frozen=True)
class StepReplay:
    """Two training steps of a method with the inputs of a vector file.

    Attributes:
        method: the method with the recorded weights.
        batch: inputs and images.
        networks: networks by their prefix in the file (`G`, `D`, `E`).
        noises: recorded noise by place: `g1`, `d1`, `g2` and `d2`; none for a method without.
        record: returns outputs and features of the discriminator, given the results of its calls in the generator
            phase.
        terms: name in the file and factor of our loss terms, per phase (`generator`, `discriminator`).
    """

    method: ReplayableMethod
    batch: Batch
    networks: Mapping[str, RecordedNetwork]
    noises: Mapping[str, Tensor]
    record: Callable[[Sequence[Any]], DiscriminatorRecord]
    terms: Mapping[str, Mapping[str, tuple[str, float]]]

    def run(self, evaluate: Callable[[], dict[str, Tensor]]) -> TwoStepResults:
        """Train two steps; the weights of the method change.

        Args:
            evaluate: returns the outputs before the first step; it is called in eval mode without gradients.
        """
        results = TwoStepResults()
        networks = self.method.networks.values()
        for network in networks:
            network.eval()
        with torch.no_grad():
            results.outputs |= evaluate()
        for network in networks:
            network.train()
        results.states.append(self._state())
        active = [phase for phase in self.method.phases if phase.when(StepContext().progress)]
        optimizers = [[self._adam(name) for name in phase.optimizers] for phase in active]
        for step in (1, 2):
            self._step(step, results, optimizers)
            results.states.append(self._state())
        return results

    def _step(self, step: int, results: TwoStepResults, optimizers: Sequence[Sequence[torch.optim.Adam]]) -> None:
        """Run both phases of a step, and record losses and, in the first step, outputs and gradients."""
        drawn = self.noises.get(f"d{step}")
        context = StepContext(random=RecordedRandom([] if drawn is None else [drawn]))
        for phase, own in zip(("generator", "discriminator"), optimizers, strict=True):
            if phase == "generator":
                losses = self._generator_phase(step, results, context)
            else:
                losses = self.method.discriminator_backward(self.batch, self._noise(step), context)
            names = self.terms[phase]
            results.values[f"{'' if step == 1 else 'second_step.'}loss.{phase}"] = {
                names[name][0]: names[name][1] * value.item() for name, value in losses.items()
            }
            if step == 1:
                self._record_gradients(phase, results)
            for optimizer in own:
                optimizer.step()
            for network in self.method.networks.values():
                network.zero_grad()

    def _generator_phase(self, step: int, results: TwoStepResults, context: StepContext) -> Losses:
        """Fill the gradients of the generator's losses, also those of the discriminator."""
        with collected_outputs(self.method.networks) as outputs:
            losses = self.method.generator_losses(self.batch, self._noise(step), context)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        if step == 1:
            record = self.record(outputs["discriminator"])
            results.outputs |= {"train.fake": outputs["generator"][0].detach(), **record.outputs}
            results.features |= record.features
        return losses

    def _noise(self, step: int) -> Tensor | None:
        noise = self.noises.get(f"g{step}")
        return None if noise is None else noise.float()

    def _record_gradients(self, phase: str, results: TwoStepResults) -> None:
        norms = {prefix: own.gradient_norms() for prefix, own in self.networks.items()}
        results.values[f"grad_norm.after_{phase}_half"] = {
            prefix: math.hypot(*own.values()) for prefix, own in norms.items()
        }
        results.values[f"grad_norm_by_tensor.after_{phase}_half"] = {
            f"{prefix}.{name}": norm for prefix, own in norms.items() for name, norm in own.items()
        }

    def _state(self) -> dict[str, Tensor]:
        """Return all weights and buffers under their names in the file."""
        return {
            f"{prefix}.{name}": tensor for prefix, own in self.networks.items() for name, tensor in own.state().items()
        }

    def _adam(self, name: str) -> torch.optim.Adam:
        spec = self.method.optimizers[name]
        return torch.optim.Adam(spec.parameters(self.method.networks), lr=spec.lr, betas=spec.betas)
