"""Golden vectors: files of weights, one input and recorded answers, and the same answers by this package's networks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lab2pix.data.transforms import instance_edges
from lab2pix.errors import CheckpointError
from lab2pix.interop.released_v2 import load_released_discriminator, load_released_generator
from lab2pix.losses import (
    ADVERSARIAL_TERMS,
    adversarial_loss,
    blurred,
    feature_matching_loss,
    foreground_mask,
    level_weights,
    perceptual_loss,
)
from lab2pix.nn.backbones import Backbone
from lab2pix.nn.discriminators import MultiScaleDiscriminator, ScaleOutput, downsample
from lab2pix.nn.fast import accelerate, fuse
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator

__all__ = ["V2Vectors", "Vectors", "one_by_one", "read_vectors"]

_DOUBLINGS = {"normal": 5, "more": 6, "most": 7}
_EDGE_KEYS = ("in.edges", "in.edge", "in.edge_map", "in.instance_edges")
_INSTANCE_KEYS = ("in.instance", "in.instances", "in.inst", "in.instance_map", "in.inst_map")
_INPUT_KEYS = ("in.label", "in.image", "in.noise", *_EDGE_KEYS, *_INSTANCE_KEYS)


@dataclass(frozen=True)
class Vectors:
    """What a vector file holds.

    Attributes:
        tensors: weights, inputs (`in.*`) and recorded answers (`out.*`), by name.
        values: the JSON beside them: `config`, loss values, gradient norms, shapes, notes.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def read_vectors(path: Path) -> Vectors:
    """Read `NAME.safetensors` and `NAME.json` beside it.

    Raises:
        CheckpointError: one of them is missing or unreadable.
    """
    try:
        tensors = load_file(path)
        values = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path} and its JSON file: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise CheckpointError(f"{path.with_suffix('.json')} has no section 'config'")
    return Vectors(tensors, values)


def one_by_one(image: Tensor, factor: int, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a stand-in feature: 1x1 convolution of the image average-pooled by `factor`."""
    pooled = F.avg_pool2d(image, factor) if factor > 1 else image
    return F.conv2d(pooled, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())


class V2Vectors:
    """The networks of a V2 vector file, and what they and the losses answer, all as released.

    Every setting is read from the file: widths, sizes, classes, discriminators. Networks are in eval mode.

    Args:
        vectors: the file's content.
        fast: draw with a fused generator; gradients are those of accelerated networks.

    Raises:
        CheckpointError: the file lacks something or holds weights under unknown names.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """Entries of the JSON file, beside `config`, that are no answers."""

    def __init__(self, vectors: Vectors, *, fast: bool = False) -> None:
        self.vectors, self.config, self.fast = vectors, vectors.values["config"], fast
        try:
            self.generator = self._generator()
            self.discriminator = self._discriminator()
            self.ids, self.condition, self.image = self._inputs()
            if fast:
                for network in (self.generator, self.discriminator):
                    accelerate(network, torch.device("cpu"))
        except KeyError as error:
            raise CheckpointError(f"the vector file lacks {error}, without which nothing can be compared") from error

    # --- what the file says ---------------------------------------------------------------------------------------

    @property
    def known_names(self) -> set[str]:
        """Names of the weights and inputs that have a part in the answers; the networks' own are loaded strictly."""
        pattern = re.compile(
            r"G\.|D\.discriminator_\d+\.(?!backboneNet\.)|D\..*\.backboneNet\.p[345]\.|VGG19\.r[1-5]\."
        )
        return {name for name in self.vectors.tensors if name in _INPUT_KEYS or pattern.match(name)}

    def _generator(self) -> Lab2PixV2Generator:
        config, weights = self.config, self.vectors.part("G.")
        if config["num_upsampling_layers"] not in _DOUBLINGS:
            raise CheckpointError(
                f"num_upsampling_layers is {config['num_upsampling_layers']!r}; known: {[*_DOUBLINGS]}"
            )
        doublings = _DOUBLINGS[config["num_upsampling_layers"]]
        first, shared = weights["fc.weight"], weights["head_0.norm_0.mlp_shared.0.weight"]
        settings = GeneratorSettings(
            width=config["ngf"],
            num_upsamples=doublings,
            start_size=(config["height"] >> doublings, config["width"] >> doublings),
            modulation="dg-norm" if any(name.startswith("fpencoder.") for name in weights) else "spade",
            modulation_hidden=config["modulation_hidden"],
            global_width=config["global_width"],
            global_max_width=config["global_max_width"],
            input="noise" if first.ndim == 2 else "label",
            noise_dim=first.shape[1],
        )
        generator = Lab2PixV2Generator(shared.shape[1], settings)
        load_released_generator(generator, weights)
        return generator.eval()

    def _discriminator(self) -> MultiScaleDiscriminator:
        config, weights = self.config, self.vectors.part("D.")
        discriminator = MultiScaleDiscriminator.hierarchical(
            weights["discriminator_0.common.0.0.weight"].shape[1],
            [weights[f"discriminator_0.backboneNet.p{3 + level}.bias"].shape[0] for level in range(3)],
            scales=config["num_D"],
            width=config["ndf"],
            max_width=config["max_dim"],
        )
        load_released_discriminator(discriminator, weights)
        return discriminator.eval()

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return class ids `[N, H, W]`, the condition `[N, C, H, W]`, and the image."""
        tensors, classes = self.vectors.tensors, self.config["num_classes"]
        ids = tensors["in.label"].long()
        ids = ids[:, 0] if ids.ndim == 4 else ids
        edges = self._edges() if self.config.get("instance_edges") else None
        channels = self.generator.label_channels - (0 if edges is None else 1)
        if channels == classes + 1:  # the last one is for pixels that nobody cares about, whatever their value
            ids = ids.clamp(max=classes)
        # Who counts the networks' channels may have counted the one of the borders, too.
        fitting = (classes, classes + 1) if edges is None else (classes - 1, classes, classes + 1)
        if channels not in fitting or int(ids.max()) >= channels:
            raise CheckpointError(
                f"the label map holds ids up to {int(ids.max())}, config.num_classes is {classes}, and the generator "
                f"has {channels} channels for classes; these cannot all be right"
            )
        onehot = F.one_hot(ids, channels).permute(0, 3, 1, 2).float()
        condition = onehot if edges is None else torch.cat([onehot, edges], 1)
        return ids, condition, tensors["in.image"].float()

    def _edges(self) -> Tensor:
        """Return `[N, 1, H, W]`: borders between instances, ready-made or from the instance map."""
        tensors = self.vectors.tensors
        if ready := next((name for name in _EDGE_KEYS if name in tensors), None):
            edges = tensors[ready].float()
            return edges if edges.ndim == 4 else edges.unsqueeze(1)
        name = next((name for name in _INSTANCE_KEYS if name in tensors), None)
        if name is None:
            raise CheckpointError(f"config.instance_edges is true, but there is no {_INSTANCE_KEYS[0]}")
        instances = tensors[name].long()
        instances = instances[:, 0] if instances.ndim == 4 else instances
        return torch.stack([instance_edges(instance) for instance in instances])

    # --- what the networks answer ---------------------------------------------------------------------------------

    @cached_property
    def generated(self) -> Tensor:
        """`[N, 3, H, W]`, with its graph."""
        noise = self.vectors.tensors.get("in.noise")
        with torch.enable_grad():  # whoever asks first
            image: Tensor = self.generator(self.condition, None if noise is None else noise.float())
        return image

    @cached_property
    def drawn(self) -> Tensor:
        """The same as `generated`, or, where asked for, what a fused generator draws: without a graph."""
        if not self.fast:
            return self.generated.detach()
        noise = self.vectors.tensors.get("in.noise")
        image: Tensor = fuse(self.generator)(self.condition, None if noise is None else noise.float())
        return image

    @cached_property
    def mask(self) -> Tensor:
        """Foreground weights `[N, 1, H, W]` (Eq. 9)."""
        background = torch.tensor(self.config["background_ids"], dtype=torch.long)
        return foreground_mask(~torch.isin(self.ids, background), float(self.config["foreground_T"]))

    @cached_property
    @torch.no_grad()
    def global_features(self) -> list[Tensor]:
        """The global features, largest scale first, as the file numbers them."""
        encoder = self.generator.global_encoder
        return [] if encoder is None else encoder(self.condition)[::-1]

    def judge(self, image: Tensor) -> list[ScaleOutput]:
        """Let every discriminator see an image with the label map; what a smaller one sees is averaged from both."""
        inputs, features = [], []
        pair = torch.cat([self.condition, image], 1)
        weights = self.vectors.part("D.")
        for scale in range(self.config["num_D"]):
            pair = downsample(pair) if scale else pair
            normal = Backbone.normalize(pair[:, -3:])
            inputs.append(pair)
            features.append(
                [
                    one_by_one(normal, 8 << level, weights, f"discriminator_{scale}.backboneNet.p{3 + level}")
                    for level in range(3 - scale)
                ]
            )
        outputs: list[ScaleOutput] = self.discriminator(inputs, features)
        return outputs

    @cached_property
    @torch.no_grad()
    def judged(self) -> dict[str, list[ScaleOutput]]:
        """What the discriminators say of the generated (`fake`), the `real` and the `blurred` image."""
        images = {"fake": self.drawn, "real": self.image, "blurred": blurred(self.image)}
        return {kind: self.judge(image) for kind, image in images.items()}

    # --- what the players lose ------------------------------------------------------------------------------------

    def _adversarial(self, outputs: list[ScaleOutput], player: int) -> Tensor:
        if self.config["gan"] not in ADVERSARIAL_TERMS:
            raise CheckpointError(f"config.gan is {self.config['gan']!r}; known: {[*ADVERSARIAL_TERMS]}")
        weights = level_weights([len(output.predictions) for output in outputs], "released")
        # The released code multiplies [N, 1, h, w] by [N, h, w]: each sample is weighed by the batch's mean mask.
        return adversarial_loss(
            [output.predictions for output in outputs],
            ADVERSARIAL_TERMS[self.config["gan"]][player],
            weights,
            self.mask.mean(0, keepdim=True),
        )

    def _eyes(self, image: Tensor) -> list[Tensor]:
        """Return the five stand-in features of the perceptual loss, of the image as it is."""
        weights = self.vectors.part("VGG19.")
        return [one_by_one(image, 1 << level, weights, f"r{level + 1}") for level in range(5)]

    @cached_property
    def generator_losses(self) -> dict[str, Tensor]:
        """The generator's terms under their released names, with graph."""
        fake, real = self.judge(self.generated), self.judged["real"]
        matching = feature_matching_loss(
            [output.features for output in fake], [output.features for output in real], "released"
        )
        return {
            "GAN": self._adversarial(fake, 0),
            "GAN_Feat": self.config["lambda_feat"] * matching,
            "VGG": self.config["lambda_vgg"] * perceptual_loss(self._eyes(self.generated), self._eyes(self.image)),
        }

    @cached_property
    def discriminator_losses(self) -> dict[str, Tensor]:
        """The discriminators' terms under their released names, with graph."""
        sharpness = self.config["lambda_sharp"]
        fake = self._adversarial(self.judge(self.generated.detach()), 2)
        soft = self._adversarial(self.judge(blurred(self.image)), 2)
        real = self._adversarial(self.judge(self.image), 1)
        return {"D_Fake": (fake + sharpness * soft) / (1 + sharpness), "D_real": real}
