"""DCLGAN: two-sided unpaired translation by contrasting patches (Han et al., CVPR Workshops 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Beta, Section
from lab2pix.interop.part_vectors import PartLosses
from lab2pix.interop.vectors import Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import l1_distance, patch_nce_loss
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Averaging, Losses, StepContext, require_images
from lab2pix.methods.contrastive import (
    ContrastiveAdamConfig,
    ContrastiveConfig,
    ContrastiveMethod,
    GanMode,
    ProjectionConfig,
    View,
    build_discriminator,
    build_generator,
    build_projection,
)
from lab2pix.methods.image_translation import identity_weight
from lab2pix.methods.step_record import RecordedRandom, StepRecord


class DCLGANProjectionConfig(ProjectionConfig):
    """Projection heads, one per domain, and the patches whose features they compare."""

    layers: tuple[int, ...] = Field(
        (4, 8, 12, 16), min_length=1, description="Layers of the generators whose outputs are compared; 0: the image."
    )


class DCLGANLossConfig(Section):
    """Loss terms and weights. A is the domain of inputs, B the domain of images."""

    adversarial: GanMode = Field(
        "hinge", description="Hinge, least squares (lsgan), cross entropy (vanilla), or the mean (wgangp)."
    )
    adversarial_weight: float = Field(1.0, ge=0, description="Weight of the adversarial terms.")
    nce: float = Field(2.0, ge=0, description="Weight of PatchNCE.")
    identity: float | None = Field(
        None,
        ge=0,
        description="Weight of |G_A(b) - b| and |G_B(a) - a|; it needs equal channels in A and B; null: 1 where they "
        "are, else 0.",
    )
    temperature: float = Field(0.07, gt=0, description="Divisor of the similarities of patches.")


class DCLGANAdamConfig(ContrastiveAdamConfig):
    """Adam and its learning-rate schedule."""

    projection_lr: float = Field(1e-3, gt=0, description="Learning rate of the projection heads.")
    projection_betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Adam's decay rates of projection heads.")


class DCLGANConfig(ContrastiveConfig):
    """Settings of DCLGAN."""

    method: Literal["dclgan"] = Field("dclgan", description="DCLGAN: unpaired, in both directions.")
    projection: DCLGANProjectionConfig = DCLGANProjectionConfig()
    loss: DCLGANLossConfig = DCLGANLossConfig()
    optimizer: DCLGANAdamConfig = DCLGANAdamConfig()


class DCLGAN(ContrastiveMethod):
    """DCLGAN: CUT in both directions, with an encoder and a projection head per domain.

    A is the domain of inputs, B the domain of images. Patches of an image are encoded by the generator that translates
    from its domain: G_A from A, G_B from B. Each step generates once, updates both discriminators, then both generators
    together with both projection heads.
    """

    name: ClassVar[str] = "dclgan"
    Config = DCLGANConfig
    averaged: ClassVar[Mapping[str, Averaging]] = {"generator_a": Averaging(), "generator_b": Averaging()}
    systems: ClassVar[tuple[str, ...]] = ("dclgan",)
    vector_prefixes: ClassVar[Mapping[str, str]] = {
        **{"generator_a": "G_A", "generator_b": "G_B", "projection_a": "F1", "projection_b": "F2"},
        **{"discriminator_a": "D_A", "discriminator_b": "D_B"},
    }
    config: DCLGANConfig

    def __init__(self, config: DCLGANConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels
        self.identity = identity_weight(config.loss.identity, channels, 1.0)
        generators = build_generator(config.generator, channels, 3), build_generator(config.generator, 3, channels)
        self.networks = {
            "generator_a": generators[0],
            "generator_b": generators[1],
            "projection_a": build_projection(config.projection, generators[0], channels),
            "projection_b": build_projection(config.projection, generators[1], 3),
            "discriminator_a": build_discriminator(config.discriminator, 3),
            "discriminator_b": build_discriminator(config.discriminator, channels),
        }
        self.init_networks()

    def sampling_generator(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """Return G_A."""
        return networks["generator_a"]

    def _generate(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return `fake_a`, `fake_b` and, if the loss uses them, the images G_A and G_B make of their own domain."""
        a, b = self.sampling.condition(batch), require_images(batch)
        g_a, g_b = self.networks["generator_a"], self.networks["generator_b"]
        with context.autocast():
            images = {"fake_b": g_a(a), "fake_a": g_b(b)}
            if self.identity:
                images |= {"same_b": g_a(b), "same_a": g_b(a)}
        return images

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate images, and backpropagate both discriminators' losses on real and generated ones, halved."""
        # With several micro-batches no graph is kept, to save memory; the generator phase generates again.
        with torch.set_grad_enabled(context.micro_batches == 1):
            images = self._generate(batch, context)
        if context.micro_batches == 1:
            context.cache["images"] = images
        real = {"b": require_images(batch), "a": self.sampling.condition(batch)}
        losses: Losses = {}
        for domain, name in (("b", "discriminator_a"), ("a", "discriminator_b")):
            with context.autocast():
                real_logits = self.networks[name](real[domain])
                fake_logits = self.networks[name](images[f"fake_{domain}"].detach())
            losses[f"real_{domain}"] = self.adversarial("real", real_logits) * 0.5
            losses[f"fake_{domain}"] = self.adversarial("fake", fake_logits) * 0.5
        return backward(losses, context.scale)

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the adversarial losses of the updated discriminators, PatchNCE and the identity loss.

        Returns:
            With the domain of the generated image as suffix: `adversarial`, `nce` and, if its weight is not 0,
            `identity`.
        """
        loss, real = self.config.loss, {"a": self.sampling.condition(batch), "b": require_images(batch)}
        images = context.cache.pop("images", None) or self._generate(batch, context)
        discriminators = {"b": self.networks["discriminator_a"], "a": self.networks["discriminator_b"]}
        losses: Losses = {}
        with context.autocast(), frozen(*discriminators.values()):
            logits = {domain: discriminators[domain](images[f"fake_{domain}"]) for domain in "ba"}
        for domain, other in ("ba", "ab"):
            nce = self.contrast(self._view(domain, images[f"fake_{domain}"]), self._view(other, real[other]), context)
            losses[f"adversarial_{domain}"] = 0.5 * loss.adversarial_weight * self.adversarial("real", logits[domain])
            losses[f"nce_{domain}"] = 0.5 * loss.nce * nce.mean()
            if self.identity:
                same = images[f"same_{domain}"]
                losses[f"identity_{domain}"] = 0.5 * self.identity * l1_distance(same, real[domain])
        return backward(losses, context.scale)

    def _view(self, domain: str, image: Tensor) -> View:
        """Return an image of a domain with the networks that encode images of this domain."""
        return View(image, self.networks[f"generator_{domain}"], self.networks[f"projection_{domain}"])

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sections `loss` and `optimizer` of a recording."""
        lr = recorded["lr"]
        return {
            "loss": {
                "adversarial": recorded["gan_mode"],
                "adversarial_weight": recorded["lambda_GAN"],
                "nce": recorded["lambda_NCE"],
                "identity": recorded["lambda_IDT"] if recorded["nce_idt"] else 0.0,
                "temperature": recorded["nce_T"],
            },
            "optimizer": {
                "generator_lr": lr,
                "discriminator_lr": lr,
                "betas": (recorded["beta1"], recorded["beta2"]),
            },
        }

    @classmethod
    def vector_random(cls, vectors: Vectors) -> RecordedRandom:
        """Return the recorded places."""
        layers = range(len(vectors.values["config"]["nce_layers"].split(",")))
        names = [f"in.patch_ids.{term}.{layer}" for term in ("NCE1", "NCE2") for layer in layers]
        return RecordedRandom(permutation=[vectors.tensors[name] for name in names])

    @classmethod
    def vector_names(cls, method: DCLGAN, record: StepRecord) -> tuple[dict[str, Tensor], PartLosses, set[str]]:
        """Return outputs and losses under the authors' names, with their weights but not halved."""
        loss, losses = method.config.loss, record.losses
        outputs: dict[str, Tensor] = {}
        for network, names in (("generator_a", ("fake_B", "idt_A")), ("generator_b", ("fake_A", "idt_B"))):
            outputs |= dict(zip(names, record.outputs[network], strict=False))
        for network, domain, name in (("discriminator_a", "B", "D_A"), ("discriminator_b", "A", "D_B")):
            real_logits, fake_logits, updated_logits = record.outputs[network]
            outputs |= {f"D_half.{name}.real_{domain}": real_logits, f"D_half.{name}.fake_{domain}": fake_logits}
            outputs[f"G_half.{name}.fake_{domain}"] = updated_logits
        heads = record.outputs["projection_a"], record.outputs["projection_b"]
        # NCE1 makes keys of A and queries of B; then NCE2 makes keys of B and queries of A.
        vectors = {"NCE1": (heads[0][0], heads[1][0]), "NCE2": (heads[1][1], heads[0][1])}
        by_layer: dict[str, float | list[float]] = {}
        for term, (keys, queries) in vectors.items():
            outputs |= {f"F.{term}.k.{layer}": key for layer, key in enumerate(keys)}
            outputs |= {f"F.{term}.q.{layer}": query for layer, query in enumerate(queries)}
            by_layer[term] = [
                patch_nce_loss(query, key, temperature=loss.temperature).item()
                for query, key in zip(queries, keys, strict=True)
            ]
        of_discriminators: dict[str, float | list[float]] = {
            name: losses[f"discriminator.real_{domain}"] + losses[f"discriminator.fake_{domain}"]
            for name, domain in (("D_A", "b"), ("D_B", "a"))
        }
        terms = {"G_A": "adversarial_b", "G_B": "adversarial_a", "NCE1": "nce_b", "NCE2": "nce_a"}
        terms |= {"idt_A": "identity_b", "idt_B": "identity_a"}
        of_generators: dict[str, float | list[float]] = {
            name: 2 * losses.get(f"generator.{term}", 0.0) for name, term in terms.items()
        }
        of_generators["G"] = sum(value for name, value in losses.items() if name.startswith("generator."))
        found = {"D_half": of_discriminators, "G_half": of_generators, "NCE_per_layer_unweighted": by_layer}
        return outputs, found, {"G_half.G_A", "G_half.G_B", "G_half.G"}
