"""CUT and FastCUT: one-sided unpaired translation by contrasting patches (Park et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.errors import ConfigError
from lab2pix.interop.part_vectors import PartLosses
from lab2pix.interop.vectors import Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import patch_nce_loss
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Losses, StepContext, require_images
from lab2pix.methods.contrastive import (
    ContrastiveConfig,
    ContrastiveMethod,
    GanMode,
    View,
    build_discriminator,
    build_generator,
    build_projection,
)
from lab2pix.methods.step_record import RecordedRandom, StepRecord


class CUTLossConfig(Section):
    """Loss terms and weights. A is the domain of inputs, B the domain of images."""

    adversarial: GanMode = Field(
        "lsgan", description="Least squares, cross entropy (vanilla), hinge, or the mean (wgangp, without a penalty)."
    )
    adversarial_weight: float = Field(1.0, ge=0, description="Weight of the adversarial term.")
    nce: float = Field(1.0, ge=0, description="Weight of PatchNCE, halved if `loss.identity` adds a second one.")
    identity: bool = Field(True, description="Contrast images of B with what the generator makes of them (CUT).")
    flip: bool = Field(False, description="Mirror inputs with probability 1/2 and features of results back (FastCUT).")
    temperature: float = Field(0.07, gt=0, description="Divisor of the similarities of patches.")
    negatives: Literal["image", "batch"] = Field(
        "image", description="Patches that a patch must differ from: those of its image, or of the whole batch."
    )


class CUTConfig(ContrastiveConfig):
    """Settings of CUT and FastCUT."""

    method: Literal["cut"] = Field("cut", description="CUT and FastCUT: unpaired, in one direction.")
    loss: CUTLossConfig = CUTLossConfig()


class CUT(ContrastiveMethod):
    """CUT: a generator whose own encoder must find, for each patch of an image, the patch that it was made from.

    A is the domain of inputs, B the domain of images; one network encodes both, so both have three channels. Each step
    generates once, updates the discriminator, then the generator together with the projection head.
    """

    name: ClassVar[str] = "cut"
    Config = CUTConfig
    systems: ClassVar[tuple[str, ...]] = ("cut", "fastcut")
    vector_prefixes: ClassVar[Mapping[str, str]] = {"generator": "G", "projection": "F", "discriminator": "D"}
    config: CUTConfig

    def __init__(self, config: CUTConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels
        if channels != 3:
            raise ConfigError(
                f"inputs have {channels} channels and images 3, but CUT encodes both with one network; set "
                "generator.encoding=colors without data.instance_edges, set data.source.channels=3, or take dclgan"
            )
        generator = build_generator(config.generator, 3, 3)
        self.networks = {
            "generator": generator,
            "projection": build_projection(config.projection, generator, 3),
            "discriminator": build_discriminator(config.discriminator, 3),
        }
        self.init_networks()

    def _generate(self, batch: Batch, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return the images generated from A and, if the loss uses it, from B; both mirrored if the step's draw is."""
        a, b = self.sampling.condition(batch), require_images(batch)
        inputs = torch.cat([a, b]) if self.config.loss.identity else a
        if context.cache["flipped"]:
            inputs = inputs.flip(-1)
        with context.autocast():
            images = self.networks["generator"](inputs)
        return images[: len(a)], images[len(a) :] if self.config.loss.identity else None

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate images, and backpropagate the discriminator loss on real and generated ones, halved."""
        context.cache["flipped"] = self.config.loss.flip and bool(context.random.shared_uniform(1) < 0.5)
        # With several micro-batches no graph is kept, to save memory; the generator phase generates again.
        with torch.set_grad_enabled(context.micro_batches == 1):
            images = self._generate(batch, context)
        if context.micro_batches == 1:
            context.cache["images"] = images
        discriminator = self.networks["discriminator"]
        with context.autocast():
            fake_logits, real_logits = discriminator(images[0].detach()), discriminator(require_images(batch))
        losses = {
            "fake": self.adversarial("fake", fake_logits) * 0.5,
            "real": self.adversarial("real", real_logits) * 0.5,
        }
        return backward(losses, context.scale)

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the adversarial loss of the updated discriminator, and PatchNCE.

        Returns:
            `adversarial`, `nce` of the image generated from A and, with `loss.identity`, `nce_identity` of that from B.
        """
        loss, a, b = self.config.loss, self.sampling.condition(batch), require_images(batch)
        fake, same = context.cache.pop("images", None) or self._generate(batch, context)
        with context.autocast(), frozen(self.networks["discriminator"]):
            logits = self.networks["discriminator"](fake)
        losses = {"adversarial": loss.adversarial_weight * self.adversarial("real", logits)}
        weight = loss.nce if same is None else 0.5 * loss.nce
        losses["nce"] = weight * self._contrast(fake, a, context).mean()
        if same is not None:
            losses["nce_identity"] = weight * self._contrast(same, b, context).mean()
        return backward(losses, context.scale)

    def _contrast(self, image: Tensor, source: Tensor, context: StepContext) -> Tensor:
        networks = self.networks["generator"], self.networks["projection"]
        images = len(source) if self.config.loss.negatives == "image" else 1
        flipped = context.cache["flipped"]
        return self.contrast(View(image, *networks), View(source, *networks), context, images=images, flipped=flipped)

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sections `loss` and `optimizer` of a recording."""
        everything = recorded.get("nce_includes_all_negatives_from_minibatch", False)
        loss = CUTLossConfig(
            adversarial=recorded["gan_mode"],
            adversarial_weight=recorded["lambda_GAN"],
            nce=recorded["lambda_NCE"],
            identity=recorded["nce_idt"],
            flip=recorded["flip_equivariance"],
            temperature=recorded["nce_T"],
            negatives="batch" if everything else "image",
        )
        lr, betas = recorded["lr"], (recorded["beta1"], recorded["beta2"])
        optimizer = dict.fromkeys(("generator_lr", "discriminator_lr", "projection_lr"), lr)
        return {
            "loss": loss.model_dump(),
            "optimizer": {**optimizer, "betas": betas, "projection_betas": betas},
        }

    @classmethod
    def vector_random(cls, vectors: Vectors) -> RecordedRandom:
        """Return the recorded coin and places."""
        coin = 0.25 if vectors.values["config"].get("flipped_in_this_step") else 0.75
        layers = range(len(vectors.values["config"]["nce_layers"].split(",")))
        places = [vectors.tensors.get(f"in.patch_ids.{term}.{layer}") for term in ("NCE", "NCE_Y") for layer in layers]
        return RecordedRandom(
            uniform=[torch.tensor([coin])], permutation=[place for place in places if place is not None]
        )

    @classmethod
    def vector_names(cls, method: CUT, record: StepRecord) -> tuple[dict[str, Tensor], PartLosses, set[str]]:
        """Return outputs and losses under the authors' names; NCE has its weight but is not halved."""
        loss, losses = method.config.loss, record.losses
        [images], (fake_logits, real_logits, updated_logits) = (
            record.outputs[name] for name in ("generator", "discriminator")
        )
        terms = ("NCE", "NCE_Y") if loss.identity else ("NCE",)
        halves = images.chunk(len(terms))
        outputs = dict(zip(("fake_B", "idt_B"), halves, strict=False))
        outputs |= {"D_half.D_fake": fake_logits, "D_half.D_real": real_logits, "G_half.D_fake": updated_logits}
        vectors = iter(record.outputs["projection"])
        groups = len(halves[0]) if loss.negatives == "image" else 1
        by_layer: dict[str, float | list[float]] = {}
        for term in terms:
            keys, queries = next(vectors), next(vectors)
            outputs |= {f"F.{term}.k.{layer}": key for layer, key in enumerate(keys)}
            outputs |= {f"F.{term}.q.{layer}": query for layer, query in enumerate(queries)}
            by_layer[term] = [
                loss.nce * patch_nce_loss(query, key, images=groups, temperature=loss.temperature).item()
                for query, key in zip(queries, keys, strict=True)
            ]
        fake, real = losses["discriminator.fake"], losses["discriminator.real"]
        share = 1 / len(terms)
        of_generator: dict[str, float | list[float]] = {
            "G_GAN": losses["generator.adversarial"],
            "NCE": losses["generator.nce"] / share,
            "G": sum(value for name, value in losses.items() if name.startswith("generator.")),
        }
        if loss.identity:
            of_generator["NCE_Y"] = losses["generator.nce_identity"] / share
        found: PartLosses = {
            "D_half": {"D_fake": 2 * fake, "D_real": 2 * real, "D": fake + real},
            "G_half": of_generator,
            "NCE_per_layer_times_lambda": by_layer,
        }
        return outputs, found, {"G_half.G_GAN", "G_half.G"}
