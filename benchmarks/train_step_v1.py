"""Lab2Pix-V1's training step with its savings to be switched off, one by one; `train_step.py` measures it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from train_step_plain import MEANING as COMMON
from train_step_plain import PlainHalves

from lab2pix.batch import Batch
from lab2pix.losses import cycle_segmentation_loss
from lab2pix.methods import StepContext, encode_condition, lab2pix_v1
from lab2pix.methods.base import Losses
from lab2pix.methods.gan import Carry, require_images
from lab2pix.methods.lab2pix_v1 import Lab2PixV1

__all__ = ["DOUBLINGS", "MEANING", "PRESET", "Variant"]

PRESET = "v1-cityscapes"
DOUBLINGS = (7, 6, 5)

MEANING = {
    "generator_once": COMMON["generator_once"],
    "segmenters_once": "off: every segmenter reads once for the generator's gradient and once more for its own",
    "discriminator_one_pass": "off: generated, real and blurred images in three passes, one after the other",
    "discriminator_frozen": COMMON["discriminator_frozen"],
    "scale_by_scale": "off: the graphs of all three discriminators and of consistency are in memory together",
    "features_once": "off: a backbone per discriminator and one for consistency, every image seen anew by each use",
    "distinct_global": COMMON["distinct_global"],
    "in_place": "off: normalised * (1 + gamma) + beta and LeakyReLU keep their inputs, as the released",
    "labels_once": "off: every norm and every co-attention resizes the full one-hot label map for itself",
    "weights_undivided": COMMON["weights_undivided"],
    "quick_convolutions": COMMON["quick_convolutions"],
    "mixed_small": "off: co-attention convolves the enlarged map, and all three maps beside each other to one channel",
}
"""The savings, and what happens without each."""


class Variant(PlainHalves, Lab2PixV1):
    """The product's step, with some savings switched off."""

    home = lab2pix_v1
    plain_passes = ((0,), (1,), (2,))
    images_in_graph = False
    savings = frozenset(MEANING)

    def draw_again(self) -> list[Tensor]:
        """Return the last images, drawn anew."""
        return self._pad_pyramid(
            self.generator(encode_condition(self.config, self.label_space, self.batch), self.noise)
        )

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        """Switch the generator's half."""
        self.batch, self.noise = batch, noise
        segmenters, once = self.drawer.segmenters, "segmenters_once" in self.savings
        segmenters.requires_grad_(once)
        with self.discriminators_as_switched():
            half = super().generator_backward if "scale_by_scale" in self.savings else self._all_at_once
            carry, losses = half(generator, batch, noise, engine)
        if not once:
            segmenters.requires_grad_(True)
            logits = [segmenter(image) for segmenter, image in zip(segmenters, carry.generated, strict=True)]
            engine.scale(self._cycle(logits, batch)).backward()
        return carry, losses

    def _all_at_once(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        images, logits = generator(encode_condition(self.config, self.label_space, batch), noise)
        generated = self._pad_pyramid(images)
        mask = self._mask(batch)
        losses: Losses = {}
        seen: list[list[Tensor]] = []
        with lab2pix_v1.frozen_parameters(self.discriminator):
            for scale in range(self.scales):
                for name, value in self._scale_terms(scale, generated, noise, mask, engine, seen).items():
                    losses[name] = losses.get(name, 0.0) + value
            losses["cycle"] = self._cycle(logits, batch)
            engine.scale(torch.stack(list(losses.values())).sum()).backward()
        carry = Carry(
            None, [image.detach() for image in generated], self._pad_pyramid([require_images(batch)]), seen, None, mask
        )
        return carry, {name: value.detach() for name, value in losses.items()}

    def _cycle(self, logits: list[Tensor], batch: Batch) -> Tensor:
        return self.config.loss.cycle * cycle_segmentation_loss(logits, batch.label, self.ignored)
