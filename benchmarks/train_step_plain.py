"""The plain ways that a training step's savings replace, for either method; `train_step.py` measures them.

A step's savings are a set of names; what is not in the set runs the plain way.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lab2pix.nn.coattention import LSCA
from lab2pix.nn.modulation import SPADE
from lab2pix.nn.spectral import SpectralConv2d
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.methods import StepContext
from lab2pix.methods.base import Losses
from lab2pix.methods.features import FeatureExtractors, Features
from lab2pix.methods.gan import Carry, HierarchicalGAN
from lab2pix.nn import blocks, convolutions, encoders

__all__ = ["MEANING", "PlainHalves", "PlainParts"]

MEANING = {
    "generator_once": "off: the discriminators' half draws its images anew",
    "discriminator_frozen": "off: the generator's half fills discriminator gradients that nobody uses",
    "distinct_global": "off: the global feature's convolution runs over the enlarged map, pixel by pixel",
    "labels_once": "off: every norm resizes the full one-hot label map for itself, at equal size too, as SPADE does",
    "weights_undivided": "off: spectral norm makes a divided copy of every weight, and more in the backward pass",
    "quick_convolutions": "off: every convolution is torch's, none is made of matrix products",
}
"""What switching off does, where it is the same for both methods."""


class PlainEyes(nn.Module):
    """Backbones as the plain code holds them: a copy per discriminator and one for the losses; each use looks anew."""

    def __init__(self, eyes: FeatureExtractors, copies: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList([eyes, *(copy.deepcopy(eyes) for _ in range(copies))])
        self.shared = False

    def forward(self, image: Tensor, *, levels: int, perceptual: bool = False, consistency: bool = False) -> Features:
        """Look once through a discriminator's own copy, and once more through the losses'."""
        sight = Features()
        if levels:
            sight.discriminator.extend(self.copies[4 - levels](image, levels=levels).discriminator)
        if perceptual or consistency:
            seen = self.copies[0](image, levels=0, perceptual=perceptual, consistency=consistency)
            sight.perceptual.extend(seen.perceptual)
            sight.consistency.extend(seen.consistency)
        return sight


class PlainHalves(HierarchicalGAN):
    """A method's two halves of a step, switched by `savings`; it stands before the method among a class's bases."""

    home: ClassVar[ModuleType]
    """Where the method's module looks up `frozen_parameters`."""
    plain_passes: ClassVar[Sequence[Sequence[int]]]
    """The plain discriminator passes, one after the other: 0 generated, 1 real, 2 blurred images."""
    images_in_graph: ClassVar[bool]
    """Whether the plain discriminators' half has a graph back to the images, with nobody at its end."""

    savings: frozenset[str]
    batch: Batch
    noise: Tensor

    @abstractmethod
    def draw_again(self) -> list[Tensor]:
        """Return the images of the last generator's half, by scale, drawn anew."""

    @contextmanager
    def discriminators_as_switched(self) -> Iterator[None]:
        """Leave the discriminators unfrozen in the generator's half, where that saving is off."""
        frozen = self.home.frozen_parameters  # type: ignore[attr-defined]
        try:
            if "discriminator_frozen" not in self.savings:
                self.home.frozen_parameters = lambda network: nullcontext()  # type: ignore[attr-defined]
            yield
        finally:
            self.home.frozen_parameters = frozen  # type: ignore[attr-defined]

    def discriminator_backward(self, discriminator: nn.Module, carry: Carry, engine: StepContext) -> Losses:
        """Switch the discriminators' half."""
        discriminator.zero_grad(set_to_none=True)
        if "generator_once" not in self.savings:
            with torch.no_grad():
                carry = replace(carry, generated=self.draw_again())
        if {"discriminator_one_pass", "features_once"} <= self.savings:
            return super().discriminator_backward(discriminator, carry, engine)
        return self._plain_discriminator(discriminator, carry, engine)

    def _plain_discriminator(self, discriminator: nn.Module, carry: Carry, engine: StepContext) -> Losses:
        groups = [carry.generated, carry.real, self.blurred_images(carry.real)]
        known: list[list[list[Tensor]]] = []
        if "features_once" in self.savings:
            real = self._extract_features(carry.real, engine) if carry.real_features is None else carry.real_features
            known = [carry.generated_features, real, self._extract_features(groups[2], engine)]
        judged: dict[int, list[Any]] = defaultdict(list)
        for kinds in ((0, 1, 2),) if "discriminator_one_pass" in self.savings else self.plain_passes:
            predictions = self._judge_together(discriminator, carry, [groups[k] for k in kinds], [*known], kinds)
            for kind, prediction in zip(kinds, predictions, strict=True):
                judged[kind].append(prediction)
        # Real images that were judged twice count half each time.
        outcomes = [
            self._discriminator_terms([judged[0][0], real, judged[2][0]], carry.mask, self._sharpness(engine))
            for real in judged[1]
        ]
        terms = outcomes[0] | {"real": torch.stack([outcome["real"] for outcome in outcomes]).mean()}
        engine.scale(torch.stack(list(terms.values())).sum()).backward()
        return {name: value.detach() for name, value in terms.items()}

    def _judge_together(
        self,
        discriminator: nn.Module,
        carry: Carry,
        groups: list[list[Tensor]],
        known: list[list[list[Tensor]]],
        kinds: Sequence[int],
    ) -> list[list[list[Tensor]]]:
        """Return predictions by kind, scale and level, of one pass over some kinds of images."""
        together = [torch.cat(images) for images in zip(*groups, strict=True)]
        if known:
            seen = [
                [torch.cat(parts) for parts in zip(*(known[kind][scale] for kind in kinds), strict=True)]
                for scale in range(self.scales)
            ]
        else:
            if self.images_in_graph:
                together = [image.requires_grad_() for image in together]
            seen = [
                self.feature_extractors(image, levels=self._num_feature_levels(scale)).discriminator
                for scale, image in enumerate(together)
            ]
        if carry.conditions is not None:
            together = [
                torch.cat([torch.cat([label] * len(kinds)), image], 1)
                for label, image in zip(carry.conditions, together, strict=True)
            ]
        outputs = discriminator(together, seen)
        return [
            [[level.chunk(len(kinds))[place] for level in output.predictions] for output in outputs]
            for place in range(len(kinds))
        ]


class PlainParts:
    """Switches what runs inside the networks, and whose eyes see: the product's parts, or the plain ones.

    It changes classes, not only this method's objects: `restore` brings the product's back.
    """

    def __init__(self, method: PlainHalves) -> None:
        self.method = method
        self.norm, self.mix, self.distinct = SPADE.forward, LSCA.forward, encoders.conv3x3_of_enlarged
        self.undivided, self.quick_way = SpectralConv2d._shortens, convolutions.quick_way
        self.norm_as_it_lies = blocks.instance_norm_act
        self.eyes, self.plain_eyes = method.feature_extractors, PlainEyes(method.feature_extractors, method.scales)
        self.label: Tensor
        method.generator.register_forward_pre_hook(self._keep_label)

    def _keep_label(self, generator: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.label = inputs[0]

    def use(self, savings: frozenset[str]) -> None:
        """Switch; activations of the global encoder, VGG and V2's last stay in place, and scores are not enlarged."""
        method = self.method
        method.savings = savings
        # Kept, it would be freed in the middle of the next step's record of memory.
        self.label = torch.empty(0)
        method.feature_extractors = self.eyes if "features_once" in savings else self.plain_eyes  # type: ignore[assignment]
        lean = {"in_place", "labels_once"} <= savings
        SPADE.forward = self.norm if lean else self._plain_norm(savings)  # type: ignore[method-assign]
        lean = {"mixed_small", "labels_once"} <= savings
        LSCA.forward = self.mix if lean else self._plain_mix(savings)  # type: ignore[method-assign]
        SpectralConv2d._shortens = (  # type: ignore[method-assign]
            self.undivided if "weights_undivided" in savings else lambda conv, x, weight: False
        )
        convolutions.quick_way = self.quick_way if "quick_convolutions" in savings else lambda *given, **named: None
        blocks.instance_norm_act = self.norm_as_it_lies if "in_place" in savings else plain_instance_norm_act
        encoders.conv3x3_of_enlarged = self.distinct if "distinct_global" in savings else plain_conv3x3_of_enlarged
        for module in method.discriminator.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = "in_place" in savings

    def restore(self) -> None:
        """Bring the product's parts back."""
        SPADE.forward, LSCA.forward = self.norm, self.mix  # type: ignore[method-assign]
        SpectralConv2d._shortens = self.undivided  # type: ignore[method-assign]
        convolutions.quick_way, blocks.instance_norm_act = self.quick_way, self.norm_as_it_lies
        encoders.conv3x3_of_enlarged = self.distinct

    def _resized(self, x: Tensor, label: Tensor, savings: frozenset[str]) -> Tensor:
        if "labels_once" in savings:
            return label
        return F.interpolate(self.label, size=x.shape[-2:], mode="nearest")

    def _plain_norm(self, savings: frozenset[str]) -> Any:
        lean = self.norm

        def forward(
            norm: SPADE, x: Tensor, label: Tensor, global_feature: Tensor | None = None, *, slope: float = 1.0
        ) -> Tensor:
            label = self._resized(x, label, savings)
            if "in_place" in savings:
                return lean(norm, x, label, global_feature, slope=slope)
            hidden = F.relu(norm.shared(label))
            if global_feature is not None:
                hidden = hidden + global_feature
            modulated = norm.norm(x) * (1 + norm.gamma(hidden)) + norm.beta(hidden)
            return modulated if slope == 1 else F.leaky_relu(modulated, slope)

        return forward

    def _plain_mix(self, savings: frozenset[str]) -> Any:
        lean = self.mix

        def forward(mix: LSCA, previous: Tensor, current: Tensor, label: Tensor) -> Tensor:
            label = self._resized(current, label, savings)
            if "mixed_small" in savings:
                return lean(mix, previous, current, label)
            merged = F.relu(mix.merge(F.interpolate(previous, scale_factor=2.0, mode="nearest")))
            guide = mix.norm_label(F.relu(mix.label(label)))
            seen = torch.cat([mix.norm_previous(merged), mix.norm_current(current), guide], 1)
            return torch.lerp(current, merged, torch.sigmoid(mix.attention(seen)))

        return forward


def plain_instance_norm_act(x: Tensor, eps: float, slope: float) -> Tensor:
    """Norm as torch does, then activate."""
    return F.leaky_relu(F.instance_norm(x, eps=eps), slope)


def plain_conv3x3_of_enlarged(small: Tensor, weight: Tensor, bias: Tensor | None, factor: int) -> Tensor:
    """Enlarge, then convolve every pixel."""
    enlarged = F.interpolate(small, scale_factor=float(factor))
    return F.relu(F.conv2d(enlarged, weight, bias, padding=1))
