"""Lab2Pix-V1: learning without pairs (4.1); with other settings, every rung of the unpaired ladder (5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    adversarial_loss,
    blurred,
    cycle_segmentation_loss,
    diversity_loss,
    image_consistency_loss,
)
from lab2pix.methods.base import Losses, StepContext
from lab2pix.methods.gan import (
    Carry,
    HierarchicalGAN,
    frozen_parameters,
    generator_settings,
    init_weights,
    require_images,
)
from lab2pix.methods.sampling import condition_channels, encode_condition
from lab2pix.nn.generators import Lab2PixV1Generator
from lab2pix.nn.init import normal_init
from lab2pix.nn.segmentation import ICNet

__all__ = ["GeneratorWithSegmenters", "Lab2PixV1", "build_v1_generator"]


def build_v1_generator(config: Config, label_space: LabelSpace) -> Lab2PixV1Generator:
    """Return the generator that the configuration describes, initialised as the released V1 is or `init_gain` says."""
    generator = Lab2PixV1Generator(
        condition_channels(config, label_space),
        generator_settings(config),
        encoder=config.generator.encoder,
        progressive=config.generator.progressive,
        coattention=config.generator.coattention,
    )
    generator.set_grad_checkpointing(config.train.gradient_checkpointing)
    init_weights(generator, config, normal_init)
    return generator


CYCLE_WARMUP_FACTOR = 1000.0
"""How many times larger λ4 is after its warm-up than at the first step."""


def downsample2x(image: Tensor) -> Tensor:
    """Halve `[N, C, H, W]` by the average of four: P_2 of Eq. 18, and how real images get their smaller forms."""
    return F.avg_pool2d(image, 2)


def num_diversity_pairs(count: int) -> int:
    """Return how many label maps of a batch are drawn twice, in place of as many others: a quarter of it."""
    return max(1, count // 4) if count > 1 else 0


def duplicate_labels(batch: Batch) -> Batch:
    """Return a batch that begins with some label maps and goes on with the same ones again, for other noise."""
    pairs = num_diversity_pairs(len(batch))
    places = [*range(pairs), *range(pairs), *range(2 * pairs, len(batch))]
    names = tuple(batch.names[place] for place in places) if batch.names else ()
    edges = None if batch.edges is None else batch.edges[places]
    return replace(batch, label=batch.label[places], edges=edges, names=names)


class GeneratorWithSegmenters(nn.Module):
    """The generator and one segmenter per image that it draws: they learn together, as one player (4.1.2).

    Args:
        generator: draws.
        segmenters: S_3, S_2, S_1; none without cycle segmentation.
    """

    def __init__(self, generator: nn.Module, segmenters: Sequence[nn.Module]) -> None:
        super().__init__()
        self.generator = generator
        self.segmenters = nn.ModuleList(segmenters)

    def forward(self, condition: Tensor, noise: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the images, largest first, and what their segmenters read in them (`[N, classes, h, w]` logits)."""
        images: list[Tensor] = self.generator(condition, noise)
        logits = [segmenter(image) for segmenter, image in zip(self.segmenters, images, strict=False)]
        return images, logits


class Lab2PixV1(HierarchicalGAN):
    """The unpaired method of section 4.1, with its losses weighed as in Eq. 20.

    The photos of a batch are any photos: they teach the discriminators what is real, and nothing else.

    A step computes nothing twice: generator and segmenters run once; the adversarial and consistency gradients are
    gathered at the images, scale by scale, so that no two discriminators' graphs are in memory together; the
    discriminators judge generated, real and blurred images in one pass; a backbone sees each image once.
    """

    name: ClassVar[str] = "lab2pix-v1"

    def __init__(self, config: Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(
            config, label_space, channels=3, initialize=normal_init, masks_real=False, pretrained=pretrained
        )
        self.generator: nn.Module = build_v1_generator(config, label_space)
        outputs = (3 if config.generator.progressive else 1) if config.loss.cycle > 0 else 0
        settings = config.segmenter
        segmenters = [
            ICNet(label_space.num_classes, width=settings.width, blocks=settings.blocks) for _ in range(outputs)
        ]
        # Its own name, as validation puts the averaged generator in the place of the trained one for a while.
        self.drawer = GeneratorWithSegmenters(self.generator, segmenters)

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator, the segmenters, and the discriminator of each scale."""
        return [*super().compile_targets, *self.drawer.segmenters]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The generator with its segmenters, and the discriminators."""
        return {"generator": self.drawer, "discriminator": self.discriminator}

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        """Draw and read once, gather the other losses' gradient at the images, and send all of it back.

        Returns:
            What the discriminators' pass needs, and `adversarial` (Eq. 10), `consistency` (Eq. 18), `diversity` and
            `cycle` (Eq. 19) as they enter the sum, each where its weight is not 0.
        """
        loss = self.config.loss
        if loss.diversity > 0:
            batch = duplicate_labels(batch)
        condition = encode_condition(self.config, self.label_space, batch)
        with engine.autocast():
            images, logits = generator(condition, noise)
        generated = self._pad_pyramid([image.float() for image in images])
        leaves = [image.detach().requires_grad_() for image in generated]
        mask = self._mask(batch)

        losses: Losses = {}
        seen: list[list[Tensor]] = []
        with frozen_parameters(self.discriminator):
            for scale in range(self.scales):
                terms = self._scale_terms(scale, leaves, noise, mask, engine, seen)
                engine.scale(torch.stack(list(terms.values())).sum()).backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    losses[name] = losses.get(name, 0.0) + value.detach()
        ends, gradients = list(generated), [leaf.grad for leaf in leaves]
        if logits:
            cycle = self._cycle_weight(engine) * cycle_segmentation_loss(logits, batch.label, self.ignored)
            losses["cycle"] = cycle.detach()
            ends.append(engine.scale(cycle))
            gradients.append(None)
        torch.autograd.backward(ends, gradients)
        carry = Carry(
            conditions=None,
            generated=[leaf.detach() for leaf in leaves],
            real=self._pad_pyramid([require_images(batch)]),
            generated_features=seen,
            real_features=None,
            mask=mask,
        )
        return carry, losses

    def _cycle_weight(self, engine: StepContext) -> float:
        """Return λ4 at this step.

        While it rises, a thousandfold and evenly in its logarithm, the segmenters learn as fast as ever (Adam does not
        mind how large a loss is), but have little say in what the generator draws.
        """
        loss = self.config.loss
        if loss.cycle_warmup == 0:
            return loss.cycle
        return float(loss.cycle * CYCLE_WARMUP_FACTOR ** min(0.0, engine.progress / loss.cycle_warmup - 1))

    def _pad_pyramid(self, images: list[Tensor]) -> list[Tensor]:
        """Return one image per discriminator: those at hand, and the smallest of them halved as often as need be."""
        images = images[: self.scales]
        while len(images) < self.scales:
            images.append(downsample2x(images[-1]))
        return images

    def _scale_terms(
        self,
        scale: int,
        leaves: list[Tensor],
        noise: Tensor,
        mask: Tensor | None,
        engine: StepContext,
        seen: list[list[Tensor]],
    ) -> Losses:
        """Return one scale's adversarial term, how it differs from the scale above, and how its twins differ.

        What the backbone sees in the image for the discriminator's sake is appended to `seen`, without a graph.
        """
        loss = self.config.loss
        consistent = loss.consistency > 0 and scale > 0
        with engine.autocast():
            sight = self.feature_extractors(
                leaves[scale], levels=self._num_feature_levels(scale), consistency=consistent
            )
            judged = self._discriminate(scale, leaves[scale], sight.discriminator)
            terms = {
                "adversarial": adversarial_loss([judged.predictions], self.generator_term, [self.weights[scale]], mask)
            }
            if consistent:
                above = self.feature_extractors(downsample2x(leaves[scale - 1]), levels=0, consistency=True).consistency
                terms["consistency"] = loss.consistency * image_consistency_loss(
                    above, sight.consistency, loss.consistency_form
                )
        both = 2 * num_diversity_pairs(len(noise))
        if loss.diversity > 0 and both:
            terms["diversity"] = loss.diversity / self.scales * diversity_loss(leaves[scale][:both], noise[:both])
        seen.append([feature.detach() for feature in sight.discriminator])
        return terms

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return every size of the photo blurred by itself: a smaller form of a blurred photo would be sharp again."""
        return [blurred(image, self.config.loss.blur) for image in real]

    # --- scores ---------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`cycle` and `disagreement`, where there are segmenters."""
        return ("cycle", "disagreement") if len(self.drawer.segmenters) else ()

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `cycle` (Eq. 19 at the full size) and `disagreement`, the share of pixels that S_3 reads otherwise."""
        if not len(self.drawer.segmenters):
            return {}
        logits = self.drawer.segmenters[0](generated)
        counting = batch.label != (-1 if self.ignored is None else self.ignored)
        wrong = ((logits.argmax(1) != batch.label) & counting).sum() / counting.sum().clamp(min=1)
        return {"cycle": cycle_segmentation_loss([logits], batch.label, self.ignored), "disagreement": wrong}
