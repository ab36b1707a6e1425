"""Parity of Pix2PixHD: vector files of other options, recorded here from networks and a step written out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.testing.parity import check_file
from tests.helpers.vectors import write_vectors

GROUPS = {"out", "loss", "features", "grad_norm", "grad_norm_by_tensor", "second_step", "after_step"}


@dataclass(frozen=True)
class Options:
    """Options of the authors' code under their names."""

    net: str = "global"
    norm: str = "instance"
    enhancers: int = 0
    blocks: int = 1
    downsamplings: int = 2
    scales: int = 2
    layers: int = 2
    label_nc: int = 4
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name of the test case."""
        return " ".join([self.net, self.norm, *self.config])


class Block(nn.Module):
    def __init__(self, norm, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), norm(width), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), norm(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """Global generator, local enhancers around it, or encoder."""

    def __init__(self, options: Options, inputs: int, outputs: int, width: int, enhancers: int, blocks: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if options.norm == "batch" else nn.InstanceNorm2d
        self.enhancers = enhancers
        n = width * 2**enhancers
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, n, 7), norm(n), nn.ReLU()]
        for _ in range(options.downsamplings):
            layers += [nn.Conv2d(n, 2 * n, 3, 2, 1), norm(2 * n), nn.ReLU()]
            n *= 2
        layers += [Block(norm, n) for _ in range(blocks)]
        for _ in range(options.downsamplings):
            layers += [nn.ConvTranspose2d(n, n // 2, 3, 2, 1, 1), norm(n // 2), nn.ReLU()]
            n //= 2
        end = [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers, *([] if enhancers else end))
        for level in range(1, enhancers + 1):
            w = width * 2 ** (enhancers - level)
            start = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, w, 7), norm(w), nn.ReLU()]
            setattr(
                self, f"model{level}_1", nn.Sequential(*start, nn.Conv2d(w, 2 * w, 3, 2, 1), norm(2 * w), nn.ReLU())
            )
            setattr(self, f"model{level}_2", nn.Sequential(
                Block(norm, 2 * w), nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), norm(w), nn.ReLU(),
                *(end if level == enhancers else [])))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        sizes = [x]
        for _ in range(self.enhancers):
            sizes.append(half(sizes[-1]))
        y = self.model(sizes[-1])
        for level in range(1, self.enhancers + 1):
            y = getattr(self, f"model{level}_2")(y + getattr(self, f"model{level}_1")(sizes[self.enhancers - level]))
        return y


class Discriminators(nn.Module):
    def __init__(self, options: Options, inputs: int, width: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if options.norm == "batch" else nn.InstanceNorm2d
        self.options, self.apart = options, not options.config.get("no_ganFeat_loss")
        for scale in range(options.scales):
            n, layers = width, [[nn.Conv2d(inputs, width, 4, 2, 2), nn.LeakyReLU(0.2)]]
            for step in range(1, options.layers + 1):
                stride = 1 if step == options.layers else 2
                layers.append([nn.Conv2d(n, 2 * n, 4, stride, 2), norm(2 * n), nn.LeakyReLU(0.2)])
                n *= 2
            layers.append([nn.Conv2d(n, 1, 4, 1, 2)])
            if self.apart:
                for index, layer in enumerate(layers):
                    setattr(self, f"scale{scale}_layer{index}", nn.Sequential(*layer))
            else:
                sigmoid = [nn.Sigmoid()] if options.config.get("no_lsgan") else []
                setattr(self, f"layer{scale}", nn.Sequential(*(part for layer in layers for part in layer), *sigmoid))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for scale in reversed(range(self.options.scales)):
            features, y = [], x
            for index in range(self.options.layers + 2) if self.apart else [0]:
                y = getattr(self, f"scale{scale}_layer{index}" if self.apart else f"layer{scale}")(y)
                features.append(y)
            found.append(features)
            x = half(x)
        return found


def half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


def marked(ids: Tensor) -> Tensor:
    padded = F.pad(ids[:, None].float(), (1, 1, 1, 1), mode="replicate")
    middle = padded[..., 1:-1, 1:-1]
    shifted = (padded[..., 1:-1, 2:], padded[..., 1:-1, :-2], padded[..., 2:, 1:-1], padded[..., :-2, 1:-1])
    return torch.stack([(other != middle) for other in shifted]).any(0).float()


def averaged(features: Tensor, ids: Tensor) -> Tensor:
    result = torch.zeros_like(features)
    for image in range(len(ids)):
        for number in ids[image].unique():
            here = ids[image] == number
            mean = features[image][:, here].mean(1)
            result[image] = torch.where(here, mean[:, None, None], result[image])
    return result


class Reference:
    """Inputs, networks and losses of the authors' step."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(0)
        self.options, config = options, options.config
        labels = options.label_nc or 3
        with_features = bool(config.get("instance_feat") or config.get("label_feat"))
        edges = not config.get("no_instance")
        self.networks: dict[str, Any] = {
            "G": Generator(options, labels + edges + 2 * with_features, 3, 4, options.enhancers, options.blocks)
        }
        if with_features:
            self.networks["E"] = Generator(options, 3, 2, 2, 0, 0)
        self.networks["D"] = Discriminators(options, labels + edges + 3, 3)
        for network in self.networks.values():
            for name, weight in network.named_parameters():
                fan = weight[0].numel() if weight.ndim > 1 else 1
                nn.init.normal_(weight, std=fan**-0.5 if weight.ndim > 1 else 0.2)
                if weight.ndim == 1 and name.endswith("weight"):
                    weight.data += 1
            network.half().float()
        pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        coarse = torch.randint(labels, (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        self.instances = coarse * 1000 + torch.randint(2, (2, 8, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.image = (pixels.float() / 255 - 0.5) / 0.5
        if options.label_nc:
            self.stored = {"in.label": coarse.to(torch.uint8)}
            shown = torch.stack([(coarse == label).float() for label in range(labels)], 1)
        else:
            self.stored = {"in.label": pixels.flip(-1).contiguous()}
            shown = self.image.flip(-1)
        self.stored |= {"in.image": pixels, "in.instance": self.instances.to(torch.int32)}
        self.condition = torch.cat([shown, marked(self.instances)], 1) if edges else shown
        self.ids = coarse if config.get("label_feat") else self.instances

    def fake(self) -> tuple[Tensor, Tensor | None]:
        if "E" not in self.networks:
            return self.networks["G"](self.condition), None
        features = averaged(self.networks["E"](self.image), self.ids)
        return self.networks["G"](torch.cat([self.condition, features], 1)), features

    def gan(self, found: list[list[Tensor]], target: float) -> Tensor:
        loss = F.binary_cross_entropy if self.options.config.get("no_lsgan") else F.mse_loss
        return sum(loss(features[-1], torch.full_like(features[-1], target)) for features in found)  # type: ignore[return-value]

    def matching(self, of_fake: list[list[Tensor]], of_real: list[list[Tensor]]) -> Tensor:
        weight = self.options.config.get("lambda_feat", 10) * 4 / (self.options.layers + 1) / len(of_fake)
        pairs = zip(of_fake, of_real, strict=True)
        layers = [(a, b.detach()) for fake, real in pairs for a, b in zip(fake[:-1], real[:-1], strict=True)]
        return weight * sum((a - b).abs().mean() for a, b in layers)

    def judge(self, image: Tensor) -> list[list[Tensor]]:
        return self.networks["D"](torch.cat([self.condition, image], 1))

    def norms(self) -> tuple[dict[str, float], dict[str, float]]:
        by_tensor = {
            f"{prefix}.{name}": weight.grad.norm().item() if weight.grad is not None else 0.0
            for prefix, network in self.networks.items()
            for name, weight in network.named_parameters()
        }
        totals = {
            prefix: math.hypot(*(norm for name, norm in by_tensor.items() if name.startswith(f"{prefix}.")))
            for prefix in self.networks
        }
        return totals, by_tensor

    def state(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}": tensor.clone()
            for prefix, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }

    def record(self, folder: Path) -> Path:
        """Write the vector file of two steps."""
        networks, config = self.networks, self.options.config
        tensors, outputs, values = {**self.state(), **self.stored}, {}, {}
        before = self.state()
        for network in networks.values():
            network.eval()
        with torch.no_grad():
            outputs["eval.fake"], features = self.fake()
        outputs["condition_sum"] = self.condition.sum((2, 3))
        if features is not None:
            outputs["eval.features"] = features
        for network in networks.values():
            network.train()
        last = f"model{self.options.enhancers}" if config.get("niter_fix_global") else ""
        learning = [weight for name, weight in networks["G"].named_parameters() if name.startswith(last)]
        learning += [*networks["E"].parameters()] if "E" in networks else []
        adam_g, adam_d = (
            torch.optim.Adam(weights, 2e-4, (0.5, 0.999)) for weights in (learning, networks["D"].parameters())
        )
        for step in ("", "second_step."):
            fake, _ = self.fake()
            of_detached, of_real, of_fake = self.judge(fake.detach()), self.judge(self.image), self.judge(fake)
            terms = {"G_GAN": self.gan(of_fake, 1)}
            if not config.get("no_ganFeat_loss"):
                terms["G_GAN_Feat"] = self.matching(of_fake, of_real)
            sum(terms.values()).backward()
            values[f"{step}loss.generator"] = {name: term.item() for name, term in terms.items()}
            if not step:
                outputs["train.fake"] = fake
                for scale, (ours, theirs) in enumerate(zip(of_fake, of_real, strict=True)):
                    outputs[f"D{scale}.pred.fake"], outputs[f"D{scale}.pred.real"] = ours[-1], theirs[-1]
                values["features"] = {
                    f"D{scale}": [described(index, *pair) for index, pair in enumerate(zip(*both, strict=True))]
                    for scale, both in enumerate(zip(of_fake, of_real, strict=True))
                }
                totals, by_tensor = self.norms()
                values["grad_norm.after_generator_half"] = totals
                values["grad_norm_by_tensor.after_generator_half"] = by_tensor
            adam_g.step()
            for network in networks.values():
                network.zero_grad()
            d_fake, d_real = self.gan(of_detached, 0), self.gan(of_real, 1)
            (0.5 * (d_fake + d_real)).backward()
            values[f"{step}loss.discriminator"] = {"D_fake": d_fake.item(), "D_real": d_real.item()}
            if not step:
                totals, by_tensor = self.norms()
                values["grad_norm.after_discriminator_half"] = {"D": totals["D"]}
                values["grad_norm_by_tensor.after_discriminator_half"] = {
                    name: norm for name, norm in by_tensor.items() if name.startswith("D.")
                }
            adam_d.step()
            for network in networks.values():
                network.zero_grad()
            if not step:
                after = self.state()
        values |= changes(before, after, self.state())
        options = self.options
        values["config"] = {
            "netG": options.net, "label_nc": options.label_nc, "ngf": 4, "ndf": 3, "height": 32, "width": 32,
            "norm": options.norm, "n_downsample_global": options.downsamplings, "n_blocks_global": options.blocks,
            "n_local_enhancers": max(1, options.enhancers), "n_blocks_local": 1, "num_D": options.scales,
            "n_layers_D": options.layers, "feat_num": 2, "nef": 2, "n_downsample_E": options.downsamplings, **config,
        }  # fmt: skip
        return write(folder, tensors, outputs, values)


def described(index: int, fake: Tensor, real: Tensor) -> dict[str, Any]:
    norms = {"fake_norm": fake.norm().item(), "real_norm": real.norm().item()}
    return {"name": f"layer{index}", "shape": list(fake.shape), **norms}


def changes(before: dict[str, Tensor], after: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    """Return sums after one step and by network after two; biases of convolutions may precede a norm."""

    def sums(name: str) -> dict[str, Any]:
        weight, moved = after[name].double(), after[name].double() - before[name].double()
        of_weight = {"sum": weight.sum(), "abs_sum": weight.abs().sum()}
        kinds = {**of_weight, "delta_sum": moved.sum(), "delta_abs_sum": moved.abs().sum()}
        limit = 1e-4 + 0.01 * moved.abs().sum().item()
        found: dict[str, Any] = {kind: value.item() for kind, value in kinds.items()}
        return {**found, "noise": True} if name in noise else {**found, "tolerance": [limit] * 4}

    convolutions = {name.removesuffix("weight") for name, weight in before.items() if weight.ndim == 4}
    noise = {name for name in before if name.endswith("bias") and name.removesuffix("bias") in convolutions}
    parameters = {name for name in before if name.endswith(("weight", "bias"))} - noise
    moved = {
        prefix: sum((second[name] - before[name]).abs().sum().item() for name in parameters if name.startswith(prefix))
        for prefix in {name[0] for name in before}
    }
    return {
        "after_step": {name: sums(name) for name in after},
        "noise_tensors": sorted(noise),
        "after_second_step.delta_abs_sum": {
            prefix: {"value": value, "tolerance": 1e-3} for prefix, value in moved.items()
        },
    }


def write(folder: Path, tensors: dict[str, Tensor], outputs: dict[str, Tensor], values: dict[str, Any]) -> Path:
    tensors |= {f"out.{name}": tensor for name, tensor in outputs.items()}
    values |= {
        "system": "pix2pixhd",
        "optimizer": {"lr_generator": 2e-4, "lr_discriminator": 2e-4, "betas": [0.5, 0.999]},
        "tolerance": {"how": "as usual"},
    }
    for name, norms in values.items():
        if name.startswith("grad_norm_by_tensor"):
            values[name] = {
                tensor: None if tensor in values["noise_tensors"] else norm for tensor, norm in norms.items()
            }
    return write_vectors(folder, tensors, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        Options(norm="batch", layers=1, scales=3),
        Options(layers=3, scales=1, config={"no_instance": True, "lambda_feat": 3.0}),
        Options(label_nc=0, config={"no_instance": True}),
        Options(label_nc=0),
        Options(config={"no_ganFeat_loss": True}),
        Options(config={"no_ganFeat_loss": True, "no_lsgan": True}),
        Options(norm="batch", config={"no_ganFeat_loss": True, "instance_feat": True}),
        Options("local", enhancers=2, downsamplings=1, config={"niter_fix_global": 5, "label_feat": True}),
        Options("local", enhancers=1, downsamplings=1, norm="batch", blocks=2, config={"niter_fix_global": 5}),
    ],
    ids=str,
)  # fmt: skip
def test_parity_of_other_options(tmp_path: Path, options: Options) -> None:
    rows = check_file(Reference(options).record(tmp_path))
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} >= GROUPS
