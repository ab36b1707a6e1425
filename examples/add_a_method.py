"""A method of your own. Run with: python examples/add_a_method.py runs/tiny data.format=scenes data.size=[64,64].

An installed package adds its method by an entry point of group `lab2pix.methods`: `tiny-gan = "my_package:TinyGAN"`.
`lab2pix train FILE.yaml` then trains it, with `method: tiny-gan` in the file; `lab2pix.testing.check_method` tests it.
"""

import sys
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from lab2pix import train
from lab2pix.config.schema import RunConfig
from lab2pix.methods import Condition, Method, OptimizerSpec, Phase, Sampling, register, require_images
from lab2pix.methods.backprop import backward, frozen


class TinyGANConfig(RunConfig):
    method: Literal["tiny-gan"] = "tiny-gan"
    width: int = Field(16, ge=1, description="Channels of the hidden layer.")


class ConvNet(nn.Sequential):
    def __init__(self, inputs, width, outputs):
        super().__init__(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, condition, image):
        return super().forward(torch.cat([condition, image], 1)).tanh()


@register
class TinyGAN(Method):
    name = "tiny-gan"
    Config = TinyGANConfig

    def __init__(self, config, label_space, *, pretrained=True):
        super().__init__(config, label_space, pretrained=pretrained)
        self.networks = {"generator": self.build_generator(config, label_space)}
        self.networks["discriminator"] = ConvNet(self.sampling.condition.channels + 3, config.width, 1)

    @classmethod
    def build_sampling(cls, config, label_space):
        return Sampling(Condition(label_space), noise_channels=4, noise_stride=1)  # one-hot classes and a noise map

    @classmethod
    def build_generator(cls, config, label_space):
        return ConvNet(cls.build_sampling(config, label_space).condition.channels + 4, config.width, 3)

    @property
    def optimizers(self):
        return {name: OptimizerSpec((name,), lr=2e-3, betas=(0.5, 0.999)) for name in self.networks}

    @property
    def phases(self):
        return [Phase(name, getattr(self, f"{name}_step"), (name,)) for name in self.networks]

    def generator_step(self, batch, noise, context):
        generator, discriminator = self.networks.values()
        condition, real = self.sampling.condition(batch), require_images(batch)
        with frozen(discriminator):
            with context.autocast():
                fake = generator(condition, noise)
                score = discriminator(condition, fake)
            context.cache["fake"] = fake.detach()
            return backward({"adversarial": -score.mean(), "l1": 10 * F.l1_loss(fake, real)}, context.scale)

    def discriminator_step(self, batch, noise, context):
        images = (context.cache["fake"], require_images(batch))
        with context.autocast():
            fake, real = (self.networks["discriminator"](self.sampling.condition(batch), image) for image in images)
        return backward({"fake": F.relu(1 + fake).mean(), "real": F.relu(1 - real).mean()}, context.scale)


if __name__ == "__main__":
    train({"method": "tiny-gan", "train": {"steps": 200}}, sys.argv[2:], out=sys.argv[1])
