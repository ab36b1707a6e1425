"""Methods whose step has a generator half and a discriminator half, and replay of two recorded steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.interop.keymap import Rules, rename, weight_names
from lab2pix.interop.step_vectors import gradient_norms
from lab2pix.interop.two_step_vectors import LayerFeature, TwoStepAnswers
from lab2pix.methods.backprop import frozen
from lab2pix.methods.base import Losses, Method, Phase, RandomSource, StepContext
from lab2pix.nn.discriminators import ScaleOutput

__all__ = ["RecordedNetwork", "ReplayedNoise", "StepReplay", "TwoHalvesMethod"]


class TwoHalvesMethod(Method):
    """Method with a network "discriminator", and losses of the generator and of the discriminator as two functions.

    Attributes:
        freezes_discriminator: whether the generator half fills no gradients of the discriminator, as in training; the
            replay of recorded steps compares these gradients as well.
    """

    freezes_discriminator: bool = True

    @abstractmethod
    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return the weighted loss terms of the generator half, with their graph."""

    @abstractmethod
    def discriminator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return the weighted loss terms of the discriminator half, with their graph."""

    def frozen_discriminator(self) -> AbstractContextManager[None]:
        """Return the context in which the generator half runs the discriminator on generated images."""
        return frozen(self.networks["discriminator"]) if self.freezes_discriminator else nullcontext()

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of the generator half."""
        return backward(self.generator_losses(batch, noise, context), context)

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of the discriminator half."""
        return backward(self.discriminator_losses(batch, noise, context), context)


def backward(losses: Losses, context: StepContext) -> Losses:
    """Backpropagate the sum of terms and return the detached terms."""
    context.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in losses.items()}


# --- replay of recorded steps ----------------------------------------------------------------------------------------


class ReplayedNoise(RandomSource):
    """Random numbers of a step that were recorded.

    Args:
        recorded: answers to `normal`, in this order.
    """

    def __init__(self, recorded: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._recorded = list(recorded)

    def normal(self, *shape: int) -> Tensor:
        """Return the next recorded tensor."""
        return self._recorded.pop(0).float().view(shape)


@dataclass(frozen=True)
class RecordedNetwork:
    """A network of a vector file.

    Attributes:
        name: name in `Method.networks`.
        rules: rules from our names of its weights to those in the file.
    """

    name: str
    rules: Rules


@dataclass(frozen=True)
class StepReplay:
    """Two training steps of a method with the inputs of a vector file.

    Attributes:
        method: the method with the recorded weights.
        batch: inputs and images.
        networks: networks by their prefix in the file (`G`, `D`, `E`).
        noises: recorded noise by place: `g1`, `d1`, `g2` and `d2`; none for a method without.
        judged: returns the discriminator's outputs for fake and for real images, given the results of its calls in the
            generator half; one output per scale, largest first.
        terms: name in the file and factor of our loss terms, per half (`generator`, `discriminator`).
    """

    method: TwoHalvesMethod
    batch: Batch
    networks: Mapping[str, RecordedNetwork]
    noises: Mapping[str, Tensor]
    judged: Callable[[Sequence[Any]], tuple[list[ScaleOutput], list[ScaleOutput]]]
    terms: Mapping[str, Mapping[str, tuple[str, float]]]

    def run(self, evaluate: Callable[[], dict[str, Tensor]]) -> TwoStepAnswers:
        """Train two steps; the weights of the method change.

        Args:
            evaluate: returns the outputs before the first step; it is called in eval mode without gradients.
        """
        answers = TwoStepAnswers()
        self.method.freezes_discriminator = False
        networks = self.method.networks.values()
        for network in networks:
            network.eval()
        with torch.no_grad():
            answers.outputs |= evaluate()
        for network in networks:
            network.train()
        answers.states.append(self._state())
        active = [phase for phase in self.method.phases if phase.when(StepContext().progress)]
        optimizers = [self._optimizers(phase) for phase in active]
        for step in (1, 2):
            self._step(step, answers, optimizers)
            answers.states.append(self._state())
        return answers

    def _step(self, step: int, answers: TwoStepAnswers, optimizers: Sequence[Sequence[torch.optim.Adam]]) -> None:
        """Run both halves of a step and record losses and gradients, in the first step also outputs."""
        group = "" if step == 1 else "second_step."
        noise = self.noises.get(f"g{step}")
        drawn = self.noises.get(f"d{step}")
        context = StepContext(random=ReplayedNoise([] if drawn is None else [drawn]))
        halves = {"generator": self.method.generator_losses, "discriminator": self.method.discriminator_losses}
        for (half, losses_of), own in zip(halves.items(), optimizers, strict=True):
            outputs: dict[str, list[Any]] = {"generator": [], "discriminator": []}
            hooks = [
                self.method.networks[name].register_forward_hook(_collector(kept)) for name, kept in outputs.items()
            ]
            losses = losses_of(self.batch, noise, context)
            for hook in hooks:
                hook.remove()
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            names = self.terms[half]
            answers.values[f"{group}loss.{half}"] = {
                names[name][0]: names[name][1] * value.item() for name, value in losses.items()
            }
            if step == 1:
                self._record_gradients(half, answers)
                if half == "generator":
                    self._record_outputs(answers, outputs["generator"][0], *self.judged(outputs["discriminator"]))
            for optimizer in own:
                optimizer.step()
            for network in self.method.networks.values():
                network.zero_grad()

    def _record_gradients(self, half: str, answers: TwoStepAnswers) -> None:
        totals: dict[str, float] = {}
        by_tensor: dict[str, float] = {}
        for prefix, own in self.networks.items():
            network = self.method.networks[own.name]
            totals[prefix], norms = gradient_norms(network, weight_names(network, own.rules))
            by_tensor |= {f"{prefix}.{name}": norm for name, norm in norms.items()}
        answers.values[f"grad_norm.after_{half}_half"] = totals
        answers.values[f"grad_norm_by_tensor.after_{half}_half"] = by_tensor

    @staticmethod
    def _record_outputs(
        answers: TwoStepAnswers, fake: Tensor, of_fake: Sequence[ScaleOutput], of_real: Sequence[ScaleOutput]
    ) -> None:
        answers.outputs["train.fake"] = fake
        for scale, (ours, theirs) in enumerate(zip(of_fake, of_real, strict=True)):
            answers.outputs[f"D{scale}.pred.fake"] = ours.predictions[-1].detach()
            answers.outputs[f"D{scale}.pred.real"] = theirs.predictions[-1].detach()
            layers = zip([*ours.features, *ours.predictions], [*theirs.features, *theirs.predictions], strict=True)
            answers.features[f"D{scale}"] = [
                LayerFeature(tuple(a.shape), a.double().norm().item(), b.double().norm().item()) for a, b in layers
            ]

    def _state(self) -> dict[str, Tensor]:
        """Return all weights and buffers under their names in the file."""
        return {
            f"{prefix}.{name}": tensor
            for prefix, own in self.networks.items()
            for name, tensor in rename(self.method.networks[own.name], own.rules).items()
        }

    def _optimizers(self, phase: Phase) -> list[torch.optim.Adam]:
        specs = [self.method.optimizers[name] for name in phase.optimizers]
        return [torch.optim.Adam(spec.parameters(self.method.networks), lr=spec.lr, betas=spec.betas) for spec in specs]


def _collector(kept: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, inputs, output: kept.append(output)
