"""The networks of a V1 vector file, and what they and the losses answer, all as released."""

from __future__ import annotations

import re
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.errors import CheckpointError
from lab2pix.interop.golden_v2 import Vectors, one_by_one
from lab2pix.interop.released_v1 import (
    ReleasedV1Discriminator,
    ReleasedV1Generator,
    load_released_v1,
    v1_discriminator_settings,
    v1_generator_settings,
)
from lab2pix.losses import (
    AdversarialTerm,
    adversarial_loss,
    blurred,
    foreground_mask,
    level_weights,
    vanilla_fake,
    vanilla_real,
)

__all__ = ["V1Vectors"]

_SCALES = (3, 2, 1)
_TASKS = {"semantic2image": "semantic", "sketch2image": "sketch"}
_INPUTS = {"semantic": ("in.label", "in.image", "in.noise"), "sketch": ("in.sketch", "in.image", "in.noise")}


class V1Vectors:
    """The networks of a V1 vector file, built from the shapes of their weights, and what they answer.

    Args:
        vectors: the file's content.

    Attributes:
        generator: in eval mode.
        discriminators: those that the file holds, in eval mode, the one that sees X3 first.

    Raises:
        CheckpointError: the file lacks something, contradicts itself, or holds weights under unknown names.
    """

    settings: ClassVar[tuple[str, ...]] = ("background_ids",)
    """Entries of the JSON file, beside `config`, that are no answers."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.config = vectors, vectors.values["config"]
        try:
            self.generator = self._generator()
            self.discriminators = {scale: self._discriminator(scale) for scale in _SCALES if self._part(scale)}
            self.condition, self.image = self._condition(), vectors.tensors["in.image"].float()
        except KeyError as error:
            raise CheckpointError(f"the vector file lacks {error}, without which nothing can be compared") from error

    # --- what the file says ---------------------------------------------------------------------------------------

    @property
    def known_names(self) -> set[str]:
        """Names of the weights and inputs that have a part in the answers; the networks' own are loaded strictly."""
        pattern = re.compile(r"G\.|D[123]\.(?!backboneNet\.)|D[123]\.backboneNet\.p[345]\.|VGG19\.r[1-5]\.")
        inputs = _INPUTS[self.generator.task]
        return {name for name in self.vectors.tensors if name in inputs or pattern.match(name)}

    def _part(self, scale: int) -> dict[str, Tensor]:
        return self.vectors.part(f"D{scale}.")

    def _generator(self) -> ReleasedV1Generator:
        weights = self.vectors.part("G.")
        settings, config = v1_generator_settings(weights), self.config
        said = {
            "task": _TASKS.get(config["task"], config["task"]),
            "norm": config["norm"],
            "classes": config["num_classes"],
            "width": config["ngf"],
        }
        for key, value in said.items():
            if value != settings[key]:
                raise CheckpointError(
                    f"the JSON file says {key} {value!r}, but the generator's weights are of {settings[key]!r}"
                )
        start = (int(config["height"]) >> 7, int(config["width"]) >> 7)
        if settings["task"] == "sketch":  # the map that nobody looks at may have any shape of its size
            start = (1, weights["noise_process.weight"].shape[0] // (16 * settings["width"]))
        generator = ReleasedV1Generator(**settings, start_size=start)
        load_released_v1(generator, weights, "the generator")
        return generator.eval()

    def _discriminator(self, scale: int) -> ReleasedV1Discriminator:
        weights = self._part(scale)
        discriminator = ReleasedV1Discriminator(**v1_discriminator_settings(weights))
        load_released_v1(discriminator, weights, f"D{scale}")
        return discriminator.eval()

    def _condition(self) -> Tensor:
        """Return `[N, classes, H, W]`: one-hot classes, or the sketch at the image's size."""
        tensors = self.vectors.tensors
        size = (int(self.config["height"]), int(self.config["width"]))
        if self.generator.task == "sketch":
            return F.interpolate(tensors["in.sketch"].float(), size=size, mode="nearest")
        ids, classes = self.ids, self.generator.classes
        if int(ids.max()) >= classes:
            raise CheckpointError(
                f"the label map holds ids up to {int(ids.max())}, but the generator has {classes} classes"
            )
        return F.one_hot(ids, classes).permute(0, 3, 1, 2).float()

    @property
    def ids(self) -> Tensor:
        """Class ids `[N, H, W]`."""
        label = self.vectors.tensors["in.label"].long()
        return label[:, 0] if label.ndim == 4 else label

    # --- what the networks answer ---------------------------------------------------------------------------------

    @cached_property
    @torch.no_grad()
    def generated(self) -> list[Tensor]:
        """X3, X2, X1."""
        noise = self.vectors.tensors.get("in.noise")
        images: list[Tensor] = self.generator(self.condition, None if noise is None else noise.float())
        return images

    @cached_property
    def mask(self) -> Tensor | None:
        """Foreground weights `[N, 1, H, W]` (Eq. 9); None for sketches."""
        if self.generator.task == "sketch":
            return None
        background = torch.tensor(self.vectors.values["background_ids"], dtype=torch.long)
        return foreground_mask(~torch.isin(self.ids, background), float(self.config["foreground_T"]))

    @cached_property
    @torch.no_grad()
    def judged(self) -> dict[str, dict[int, list[Tensor]]]:
        """What the discriminators say, as logits: per kind of image, per scale, per level.

        Smaller real images are averaged from the full one (2x2, 4x4); a blurred one is made of each.
        """
        fake = dict(zip(_SCALES, self.generated, strict=True))
        real = {scale: F.avg_pool2d(self.image, 2 ** (3 - scale)) for scale in _SCALES}
        soft = {scale: blurred(image, "average") for scale, image in real.items()}
        kinds = {"fake": fake, "real": real, "blurred": soft}
        return {
            kind: {scale: self._judge(scale, images[scale]) for scale in self.discriminators}
            for kind, images in kinds.items()
        }

    def _judge(self, scale: int, image: Tensor) -> list[Tensor]:
        network, weights = self.discriminators[scale], self._part(scale)
        features = [
            one_by_one(image, 8 << level, weights, f"backboneNet.p{3 + level}") for level in range(network.levels)
        ]
        predictions: list[Tensor] = network(image, features)
        return predictions

    # --- what the players lose ------------------------------------------------------------------------------------

    @cached_property
    def losses(self) -> dict[str, list[Tensor]]:
        """Every term under its released name, by scale: X3 first (Eq. 10-13, 16, 18)."""
        return {
            "G_GAN": self._adversarial("fake", vanilla_real, self.mask),
            "D_fake": self._adversarial("fake", vanilla_fake, self.mask),
            "D_real": self._adversarial("real", vanilla_real, None),
            "D_blurred": self._adversarial("blurred", vanilla_fake, None),
            "consistency": self._consistency,
        }

    def _adversarial(self, kind: str, term: AdversarialTerm, mask: Tensor | None) -> list[Tensor]:
        if mask is not None:
            # The released code multiplies [N, 1, h, w] by [N, h, w]: each sample is weighed by the batch's mean mask.
            mask = mask.mean(0, keepdim=True)
        judged = self.judged[kind].values()
        return [adversarial_loss([levels], term, level_weights([len(levels)]), mask) for levels in judged]

    @property
    @torch.no_grad()
    def _consistency(self) -> list[Tensor]:
        """Mean squares between what is seen in each pooled image and in the next smaller one, summed over layers."""
        weights, (full, half, quarter) = self.vectors.part("VGG19."), self.generated

        def distance(larger: Tensor, smaller: Tensor, layer: int) -> Tensor:
            pooled = F.avg_pool2d(larger, 2)
            ours, theirs = (one_by_one(image, 1 << layer, weights, f"r{layer + 1}") for image in (pooled, smaller))
            return F.mse_loss(ours, theirs)

        pairs = ((full, half), (half, quarter))
        return [torch.stack([distance(*pair, layer) for layer in range(5)]).sum() for pair in pairs]
