"""OASIS's segmentation discriminator (Schönfeld et al., 2021) as a further loss of another method."""

from __future__ import annotations

import torch
from torch import Tensor

from lab2pix.labels.space import LabelSpace
from lab2pix.methods.base import Losses, StepContext
from lab2pix.methods.segmentation_gan import (
    SegmenterConfig,
    class_weights,
    fake_loss,
    labelmix_loss,
    labelmix_mask,
    segmentation_loss,
)
from lab2pix.nn.oasis import OASISDiscriminator


class SegmentationDiscriminatorLoss:
    """Losses of a U-Net that tells each pixel's class in photos, and "fake" in generated images.

    Args:
        settings: the U-Net.
        space: label space of the class ids.
        weight: factor of all terms.
        labelmix: further factor of LabelMix; 0: off.

    Attributes:
        network: the U-Net, with PyTorch's initial weights.
    """

    def __init__(self, settings: SegmenterConfig, space: LabelSpace, weight: float, labelmix: float) -> None:
        self.network = OASISDiscriminator(space.num_channels, **settings.model_dump())
        self.space, self.weight, self.labelmix = space, weight, labelmix

    def generator_losses(self, generated: Tensor, label: Tensor, context: StepContext) -> Losses:
        """Return `segmentation`, weighted, of generated images `[N, 3, H, W]` with label maps `[N, H, W]`."""
        with context.autocast():
            logits = self.network(generated)
        return {"segmentation": self.weight * self._balanced(logits, label)}

    def discriminator_losses(self, fake: Tensor, real: Tensor, label: Tensor, context: StepContext) -> Losses:
        """Return `segmentation_real`, `segmentation_fake` and, if it is on, `labelmix`, weighted."""
        with context.autocast():
            of_fake, of_real = self.network(fake), self.network(real)
        terms = {"segmentation_real": self._balanced(of_real, label), "segmentation_fake": fake_loss(of_fake)}
        if self.labelmix > 0:
            mask = labelmix_mask(label, context.random.shared_uniform(self.space.num_channels))
            with context.autocast():
                of_mixed = self.network(torch.where(mask, real, fake))
            terms["labelmix"] = self.labelmix * labelmix_loss(mask, of_real, of_fake, of_mixed)
        return {name: self.weight * value for name, value in terms.items()}

    def _balanced(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the cross-entropy of the label map, with weights that balance the classes of the batch."""
        unknown = range(self.space.num_classes, self.space.num_channels)
        return segmentation_loss(logits, label, class_weights(label, self.space.num_channels, unknown))
