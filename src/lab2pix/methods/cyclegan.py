"""CycleGAN: unpaired image-to-image translation with cycle consistency (Zhu et al., ICCV 2017)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.errors import CheckpointError
from lab2pix.interop.step_vectors import StepResults
from lab2pix.interop.vectors import Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import l1_distance
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Averaging, Losses, OptimizerSpec, Phase, RandomSource, StepContext, require_images
from lab2pix.methods.image_translation import (
    GanMode,
    ImageTranslationConfig,
    ImageTranslationDiscriminatorConfig,
    ImageTranslationGeneratorConfig,
    ImageTranslationMethod,
    build_condition,
    build_discriminator,
    build_translator,
    identity_weight,
)
from lab2pix.methods.sampling import Sampling
from lab2pix.methods.step_record import StepRecord
from lab2pix.nn.image_pool import ImagePool
from lab2pix.nn.normalization import Norm


class CycleGANGeneratorConfig(ImageTranslationGeneratorConfig):
    """Both generators G and F."""

    network: Literal["unet", "resnet"] = Field("resnet", description="U-Net, or residual blocks as published.")
    depth: int = Field(
        9, ge=1, description="Residual blocks of the ResNet (9 for 256x256, 6 for 128x128), or halvings of the U-Net."
    )
    norm: Norm = Field("instance", description="Normalization: batch, instance (without weights) or none.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropout in training; 0: off.")


class CycleGANDiscriminatorConfig(ImageTranslationDiscriminatorConfig):
    """Both discriminators."""

    norm: Norm = Field("instance", description="Normalization: batch, instance (without weights) or none.")


class CycleGANLossConfig(Section):
    """Loss terms and weights. A is the domain of inputs, B the domain of images."""

    adversarial: GanMode = Field(
        "lsgan", description="Least squares, cross entropy (vanilla), or the mean (wgangp, without a penalty)."
    )
    cycle_a: float = Field(10.0, ge=0, description="Weight of |F(G(a)) - a|, from A to B and back.")
    cycle_b: float = Field(10.0, ge=0, description="Weight of |G(F(b)) - b|, from B to A and back.")
    identity: float | None = Field(
        None,
        ge=0,
        description="Weight of |G(b) - b| and |F(a) - a|, as part of the cycle's; it needs equal channels in A and B; "
        "null: 0.5 where they are, else 0.",
    )
    pool_size: int = Field(50, ge=0, description="Generated images per domain that discriminators see again; 0: off.")


class CycleGANConfig(ImageTranslationConfig):
    """Settings of CycleGAN."""

    method: Literal["cyclegan"] = Field("cyclegan", description="CycleGAN: unpaired.")
    generator: CycleGANGeneratorConfig = CycleGANGeneratorConfig()
    discriminator: CycleGANDiscriminatorConfig = CycleGANDiscriminatorConfig()
    loss: CycleGANLossConfig = CycleGANLossConfig()


@dataclass(frozen=True)
class Cycle:
    """Two generators, their discriminators, and the image pools of both domains.

    Attributes:
        pools: image pools of domains `a` and `b`.
        g, f: generators from A to B, and from B to A.
        discriminator_a, discriminator_b: of images of B and of A: as in the authors' code, they have the names of the
            generators whose images they judge.
    """

    pools: Mapping[str, ImagePool]
    g: nn.Module
    f: nn.Module
    discriminator_a: nn.Module
    discriminator_b: nn.Module


class CycleGAN(ImageTranslationMethod):
    """CycleGAN: generators G: A to B and F: B to A with one discriminator each, and a cycle-consistency loss.

    A is the domain of inputs (label maps, line drawings or source images), B the domain of images. Each step updates
    both generators, then both discriminators on the images generated before that update and on the image pools.
    """

    name: ClassVar[str] = "cyclegan"
    Config = CycleGANConfig
    paired: ClassVar[bool] = False
    pool_names: ClassVar[tuple[str, ...]] = ("a", "b")
    """Image pools: one per domain."""
    averaged: ClassVar[Mapping[str, Averaging]] = {"generator_a": Averaging(), "generator_b": Averaging()}
    vector_prefixes: ClassVar[Mapping[str, str]] = {
        **{"generator_a": "G_A", "generator_b": "G_B"},
        **{"discriminator_a": "D_A", "discriminator_b": "D_B"},
    }
    released_weight: ClassVar[str | None] = r"model\.10\.conv_block\.1\.weight"
    config: CycleGANConfig

    def __init__(self, config: CycleGANConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels
        self.identity = identity_weight(config.loss.identity, channels, 0.5)
        self.networks = {
            "generator_a": self.build_generator(config, label_space),
            "generator_b": self.build_translator(config, 3, channels),
            **self.build_discriminators(config, channels),
        }
        self.init_networks()
        self.pools = {domain: ImagePool(config.loss.pool_size) for domain in self.pool_names}

    @classmethod
    def build_sampling(cls, config: CycleGANConfig, label_space: LabelSpace) -> Sampling:
        """Return the sampling: one image per input, in eval mode."""
        return Sampling(build_condition(config, label_space), size_multiple=config.size_rule[0])

    @classmethod
    def build_generator(cls, config: CycleGANConfig, label_space: LabelSpace) -> nn.Module:
        """Return G, from inputs to images."""
        return cls.build_translator(config, build_condition(config, label_space).channels, 3)

    @classmethod
    def build_translator(cls, config: CycleGANConfig, inputs: int, outputs: int) -> nn.Module:
        """Return a generator from `inputs` to `outputs` channels."""
        return build_translator(config.generator, inputs, outputs)

    @classmethod
    def build_discriminators(cls, config: CycleGANConfig, channels: int) -> dict[str, nn.Module]:
        """Return the discriminators of images of B, and of inputs with `channels` channels."""
        return {
            "discriminator_a": build_discriminator(config.discriminator, 3),
            "discriminator_b": build_discriminator(config.discriminator, channels),
        }

    def sampling_generator(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """Return G."""
        return networks["generator_a"]

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam optimizer for both generators, and one for both discriminators."""
        settings = self.config.optimizer
        return {
            "generators": self.optimizer(settings.generator_lr, "generator_a", "generator_b"),
            "discriminators": self.optimizer(settings.discriminator_lr, "discriminator_a", "discriminator_b"),
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """The generator phase, then the discriminator phase."""
        return (
            Phase("generators", self.generators_backward, ("generators",)),
            Phase("discriminators", self.discriminators_backward, ("discriminators",)),
        )

    @property
    def cycle(self) -> Cycle:
        """The networks and pools of a step."""
        return Cycle(self.pools, *self.networks.values())

    def generators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of both generators; see `cycle_losses`."""
        losses, fakes = self.cycle_losses(self.cycle, self.sampling.condition(batch), require_images(batch), context)
        context.cache.update(fakes)
        return backward(losses, context.scale)

    def discriminators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of both discriminators; see `discriminator_losses`."""
        real = {"b": require_images(batch), "a": self.sampling.condition(batch)}
        return backward(self.discriminator_losses(self.cycle, real, context), context.scale)

    def cycle_losses(self, cycle: Cycle, a: Tensor, b: Tensor, context: StepContext) -> tuple[Losses, Losses]:
        """Return the adversarial, cycle-consistency and identity losses of both generators, and their images.

        Args:
            cycle: the networks.
            a: images of domain A.
            b: images of domain B.
            context: context of the step.

        Returns:
            `adversarial_a`, `cycle_a` of the cycle from A; `adversarial_b`, `cycle_b` of the cycle from B; and
            `identity_a`, `identity_b` of G and F if their weight is not 0. The images, without graph: `fake_a`,
            `fake_b`.
        """
        loss, g, f = self.config.loss, cycle.g, cycle.f
        with context.autocast(), frozen(cycle.discriminator_a, cycle.discriminator_b):
            fake_b = g(a)
            cycled_a = f(fake_b)
            fake_a = f(b)
            cycled_b = g(fake_a)
            logits_a, logits_b = cycle.discriminator_a(fake_b), cycle.discriminator_b(fake_a)
            identity_images = (g(b), f(a)) if self.identity else None
        losses = {
            "adversarial_a": self.adversarial(logits_a, "generator"),
            "adversarial_b": self.adversarial(logits_b, "generator"),
            "cycle_a": loss.cycle_a * l1_distance(cycled_a, a),
            "cycle_b": loss.cycle_b * l1_distance(cycled_b, b),
        }
        if identity_images is not None:
            losses["identity_a"] = self.identity * loss.cycle_b * l1_distance(identity_images[0], b)
            losses["identity_b"] = self.identity * loss.cycle_a * l1_distance(identity_images[1], a)
        return losses, {"fake_a": fake_a.detach().float(), "fake_b": fake_b.detach().float()}

    def discriminator_losses(self, cycle: Cycle, real: Mapping[str, Tensor], context: StepContext) -> Losses:
        """Return the halved discriminator losses on real images and on generated ones from the pools.

        Args:
            cycle: the networks and pools.
            real: images of domains `a` and `b`.
            context: context of the step; its cache holds the generated images, `fake_a` and `fake_b`.
        """
        losses: Losses = {}
        for domain, network in (("b", cycle.discriminator_a), ("a", cycle.discriminator_b)):
            fake = cycle.pools[domain].query(context.cache.pop(f"fake_{domain}"), context.random.uniform)
            with context.autocast():
                real_logits, fake_logits = network(real[domain]), network(fake)
            losses[f"real_{domain}"] = self.adversarial(real_logits, "real") * 0.5
            losses[f"fake_{domain}"] = self.adversarial(fake_logits, "fake") * 0.5
        return losses

    def extra_state(self) -> dict[str, Tensor]:
        """Return the images in both pools."""
        return {f"pool_{domain}": pool.state() for domain, pool in self.pools.items()}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore both pools."""
        for domain, pool in self.pools.items():
            if f"pool_{domain}" not in state:
                raise CheckpointError(
                    f"the checkpoint lacks {type(self).__name__}'s image pool '{domain}'; use a complete one"
                )
            pool.load_state(state[f"pool_{domain}"])

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`cycle`."""
        return ("cycle",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `cycle`, the mean absolute difference between the input and F of the generated images."""
        return {"cycle": l1_distance(self.networks["generator_b"](generated), self.sampling.condition(batch))}

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the section `loss` of a recording."""
        names = {"cycle_a": "lambda_A", "cycle_b": "lambda_B", "identity": "lambda_identity"}
        weights = {name: recorded[key] for name, key in names.items()}
        pool_size = recorded.get("pool_size", 50)
        return {"loss": {"adversarial": recorded["gan_mode"], "pool_size": pool_size, **weights}}

    @classmethod
    def vector_names(cls, record: StepRecord) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return outputs and losses under the authors' names."""
        logits_a, logits_b = record.outputs["discriminator_a"], record.outputs["discriminator_b"]
        names = {"generator_a": ("fake_B", "rec_B", "idt_A"), "generator_b": ("rec_A", "fake_A", "idt_B")}
        outputs = {
            name: tensor
            for network, own in names.items()
            for name, tensor in zip(own, record.outputs[network], strict=False)
        }
        outputs |= {"D_A_real": logits_a[1], "D_A_fake": logits_a[2], "D_B_real": logits_b[1], "D_B_fake": logits_b[2]}
        losses = {name.partition(".")[2]: value for name, value in record.losses.items()}
        terms = {
            **{"G_A": losses["adversarial_a"], "G_B": losses["adversarial_b"]},
            **{"cycle_A": losses["cycle_a"], "cycle_B": losses["cycle_b"]},
            **{"idt_A": losses.get("identity_a", 0.0), "idt_B": losses.get("identity_b", 0.0)},
        }
        discriminators = {"D_A": losses["real_b"] + losses["fake_b"], "D_B": losses["real_a"] + losses["fake_a"]}
        return outputs, {**terms, **discriminators, "G": sum(terms.values())}

    @classmethod
    def vector_results(cls, vectors: Vectors, *, fast: bool = False) -> StepResults:
        """Add the image pool's results for the recorded queries."""
        results = super().vector_results(vectors, fast=fast)
        if trace := vectors.values.get("pool_trace"):
            pool, source = ImagePool(trace["pool_size"]), _PythonRandom(trace["seed"], trace["pool_size"])
            queries = torch.arange(2.0 * len(trace["returned"])).view(-1, 2, 1, 1, 1)
            returned = []
            for images in queries:
                source.stored = pool.size - len(pool.images)
                returned.append(pool.query(images, source.uniform).flatten().int().tolist())
            results.other["pool_trace"] = trace | {"returned": returned}
        return results


class _PythonRandom(RandomSource):
    """Random numbers of the pool as in the authors' code: Python's `random`, with an index only if it is needed.

    Attributes:
        stored: number of the next images that a pool with room stores, for which the authors draw nothing.
    """

    def __init__(self, seed: int, pool_size: int) -> None:
        super().__init__()
        self._random, self._size, self.stored = random.Random(seed), pool_size, 0

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Return a probability and, if it exceeds 1/2, the image index as a fraction of the pool size, per image."""
        rows = [(0.0, 0.0) if row < self.stored else self._draw() for row in range(count)]
        return torch.tensor(rows, dtype=torch.float64)

    def _draw(self) -> tuple[float, float]:
        probability = self._random.uniform(0, 1)
        index = self._random.randint(0, self._size - 1) if probability > 0.5 else 0
        return probability, (index + 0.5) / self._size
