"""Lab2Pix-V2's training step with its savings to be switched off, one by one; `train_step.py` measures it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from train_step_plain import MEANING as COMMON
from train_step_plain import PlainHalves

from lab2pix.batch import Batch
from lab2pix.losses import adversarial_loss, feature_matching_loss
from lab2pix.methods import StepContext, encode_condition, lab2pix_v2
from lab2pix.methods.base import Losses
from lab2pix.methods.features import Features
from lab2pix.methods.gan import Carry, require_images
from lab2pix.methods.lab2pix_v2 import GeneratorStep, Lab2PixV2, pyramid

__all__ = ["DOUBLINGS", "MEANING", "PRESET", "Variant"]

PRESET = "v2-cityscapes"
DOUBLINGS = (5,)

MEANING = {
    "generator_once": COMMON["generator_once"],
    "discriminator_one_pass": "off: generated with real, then blurred with real once more, in two passes",
    "discriminator_frozen": COMMON["discriminator_frozen"],
    "real_without_graph": "off: generated and real pass the discriminators together in the generator's half",
    "group_by_group": "off: the graphs of all scales and networks are in memory together",
    "features_once": "off: a backbone per discriminator, every image seen anew, with a graph back to the image",
    "distinct_global": COMMON["distinct_global"],
    "in_place": "off: normalised * (1 + gamma) + beta and LeakyReLU keep their inputs, as SPADE's and the released",
    "labels_once": COMMON["labels_once"],
    "weights_undivided": COMMON["weights_undivided"],
    "quick_convolutions": COMMON["quick_convolutions"],
}
"""The savings, and what happens without each."""


class Variant(PlainHalves, Lab2PixV2):
    """The product's step, with some savings switched off."""

    home = lab2pix_v2
    plain_passes = ((0, 1), (2, 1))
    images_in_graph = True
    savings = frozenset(MEANING)

    def draw_again(self) -> list[Tensor]:
        """Return the pyramid of the last image, drawn anew."""
        condition = encode_condition(self.config, self.label_space, self.batch)
        return pyramid(self.generator(condition, self.noise), self.scales)

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        """Switch the generator's half."""
        self.batch, self.noise = batch, noise
        with self.discriminators_as_switched():
            half = super().generator_backward if "group_by_group" in self.savings else self._all_at_once
            carry, losses = half(generator, batch, noise, engine)
        assert carry.real_features is not None
        theirs = [[feature.detach() for feature in features] for features in carry.real_features]
        return replace(carry, real_features=theirs), losses

    def _all_at_once(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        condition = encode_condition(self.config, self.label_space, batch)
        generated = pyramid(generator(condition, noise), self.scales)
        real, conditions = pyramid(require_images(batch), self.scales), pyramid(condition, self.scales)
        turn = GeneratorStep(batch.label, self._mask(batch), engine, photo=None)
        losses: Losses = {}
        with lab2pix_v2.frozen_parameters(self.discriminator):
            for scale in range(self.scales):
                for group in self._generator_terms(scale, generated[scale], real[scale], conditions[scale], turn):
                    for name, value in group.items():
                        losses[name] = losses.get(name, 0.0) + value
            engine.scale(torch.stack(list(losses.values())).sum()).backward()
        ours, theirs = ([pair[side] for pair in turn.seen] for side in (0, 1))
        carry = Carry(conditions, [image.detach() for image in generated], real, ours, theirs, turn.mask)
        return carry, {name: value.detach() for name, value in losses.items()}

    def _extract_pair(
        self, generated: Tensor, real: Tensor, *, levels: int, perceptual: bool, photo: Features | None = None
    ) -> tuple[Features, Features]:
        if "real_without_graph" in self.savings or not levels:
            return super()._extract_pair(generated, real, levels=levels, perceptual=perceptual, photo=photo)
        both = self.feature_extractors(torch.cat([generated, real]), levels=levels, perceptual=False).discriminator
        halves = [feature.chunk(2) for feature in both]
        ours, theirs = super()._extract_pair(generated, real, levels=0, perceptual=perceptual)
        return Features([own for own, _ in halves], ours.perceptual), Features(
            [true for _, true in halves], theirs.perceptual
        )

    def _discriminator_losses(self, scale, generated, real, condition, turn, ours, theirs):  # type: ignore[no-untyped-def]
        if "real_without_graph" in self.savings:
            return super()._discriminator_losses(scale, generated, real, condition, turn, ours, theirs)
        features = [torch.cat(pair) for pair in zip(ours, theirs, strict=True)]
        together = torch.cat([torch.cat([condition] * 2), torch.cat([generated, real])], 1)
        output = self._discriminate(scale, together, features)
        halves = [layer.chunk(2) for layer in output.features]
        judged = [prediction.chunk(2)[0] for prediction in output.predictions]
        adversarial = adversarial_loss([judged], self.generator_term, [self.weights[scale]], turn.mask)
        distance = feature_matching_loss([[fake for fake, _ in halves]], [[true.detach() for _, true in halves]])
        return {"adversarial": adversarial, "feature_matching": self.config.loss.feature_matching * distance}
