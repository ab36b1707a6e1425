"""Parity of the released V2 networks, and vector files of other shapes with reference losses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lab2pix.errors import DataError
from lab2pix.interop.keymap import rename
from lab2pix.methods.lab2pix_v2 import official_rules
from lab2pix.nn.discriminators import HierarchicalDiscriminator, MultiScaleDiscriminator
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator
from lab2pix.nn.init import xavier_init
from lab2pix.testing.parity import check_file, check_files, run_parity
from tests.helpers.vectors import edit, failures, nudged, write_vectors

SEEN = (5, 6, 7)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@dataclass(frozen=True)
class Shape:
    """What a made-up vector file is like."""

    upsampling: str = "normal"
    size: tuple[int, int] = (64, 64)
    classes: int = 4
    dont_care: bool = False
    edges: str | None = None
    discriminators: int = 2
    widths: tuple[int, int, int, int, int, int] = (2, 3, 12, 5, 3, 10)
    lambdas: tuple[float, float, float] = (10, 10, 1)
    ids: list[int] = field(default_factory=lambda: [0, 2])

    @property
    def config(self) -> dict[str, Any]:
        names = ("ngf", "ndf", "max_dim", "modulation_hidden", "global_width", "global_max_width")
        return {
            **dict(zip(names, self.widths, strict=True)),
            **dict(zip(("lambda_feat", "lambda_vgg", "lambda_sharp"), self.lambdas, strict=True)),
            "num_upsampling_layers": self.upsampling, "height": self.size[0], "width": self.size[1],
            "num_classes": self.classes, "instance_edges": self.edges is not None, "num_D": self.discriminators,
            "foreground_T": 5, "background_ids": self.ids, "gan": "hinge",
        }  # fmt: skip


def build(shape: Shape) -> tuple[Lab2PixV2Generator, MultiScaleDiscriminator]:
    """Return networks of that shape whose weights, means and variances are all random and fit into float16."""
    channels = shape.classes + shape.dont_care + (shape.edges is not None)
    ngf, ndf, max_dim, hidden, global_width, global_max = shape.widths
    upsamples = {"normal": 5, "more": 6, "most": 7}[shape.upsampling]
    settings = GeneratorSettings(
        width=ngf, num_upsamples=upsamples, input="label", modulation_hidden=hidden, global_width=global_width,
        global_max_width=global_max, start_size=(shape.size[0] >> upsamples, shape.size[1] >> upsamples),
    )  # fmt: skip
    generator = Lab2PixV2Generator(channels, settings)
    discriminator = MultiScaleDiscriminator(
        [
            HierarchicalDiscriminator(channels + 3, SEEN[:levels], levels=levels, width=ndf, max_width=max_dim)
            for levels in (3, 2, 1)[: shape.discriminators]
        ]
    )
    for network in (generator, discriminator):
        xavier_init(network, gain=1)  # finds the singular vectors as well
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(0, 0.1)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
        network.half().float().eval()
    return generator, discriminator


def official(network: nn.Module) -> dict[str, Tensor]:
    return rename(network, official_rules(network))


def marked(instance: Tensor) -> Tensor:
    edges = torch.zeros_like(instance, dtype=torch.float32)
    height, width = instance.shape[-2:]
    for row in range(height):
        for column in range(width):
            for y, x in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if 0 <= y < height and 0 <= x < width:
                    edges[..., row, column] += (instance[..., row, column] != instance[..., y, x]).float()
    return edges.clamp(max=1)


def make_inputs(shape: Shape) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the file's inputs, class ids and condition."""
    count = shape.classes + shape.dont_care
    coarse = torch.randint(count, (2, 1, shape.size[0] // 8, shape.size[1] // 8))
    ids = F.interpolate(coarse.float(), size=shape.size).long()
    condition = F.one_hot(ids[:, 0], count).permute(0, 3, 1, 2).float()
    stored = {"in.label": ids.to(torch.uint8), "in.image": torch.rand(2, 3, *shape.size) * 2 - 1}
    if shape.edges is not None:
        instance = F.interpolate(torch.randint(3, (2, 1, 4, 4)).float(), size=shape.size).long()
        edges = marked(instance)
        condition = torch.cat([condition, edges], 1)
        stored[f"in.{shape.edges}"] = edges if "edges" in shape.edges else instance.to(torch.int32)
    return stored, ids[:, 0], condition


def stand_ins(shape: Shape) -> dict[str, Tensor]:
    weights = {}
    for scale in range(shape.discriminators):
        for level in range(3 - scale):
            name = f"D.discriminator_{scale}.backboneNet.p{3 + level}"
            weights[f"{name}.weight"], weights[f"{name}.bias"] = (
                torch.randn(SEEN[level], 3, 1, 1),
                torch.randn(SEEN[level]),
            )
    for level in range(5):
        weights[f"VGG19.r{level + 1}.weight"], weights[f"VGG19.r{level + 1}.bias"] = (
            torch.randn(4, 3, 1, 1),
            torch.randn(4),
        )
    return {name: weight.half() for name, weight in weights.items()}


class Released:
    """The released way from an image to losses, written out plainly."""

    def __init__(self, shape: Shape, discriminator: MultiScaleDiscriminator, weights: dict[str, Tensor]) -> None:
        self.shape, self.discriminator = shape, discriminator
        self.weights = {name: weight.float() for name, weight in weights.items()}

    def feature(self, image: Tensor, factor: int, name: str) -> Tensor:
        pooled = F.avg_pool2d(image, factor)
        return F.conv2d(pooled, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def judge(self, condition: Tensor, image: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        pair, stacks, features = torch.cat([condition, image], 1), [], []
        for scale, network in enumerate(self.discriminator.networks):
            if scale:
                pair = F.avg_pool2d(pair, 3, stride=2, padding=1, count_include_pad=False)
            normal = ((pair[:, -3:] + 1) / 2 - MEAN) / STD
            names = [f"D.discriminator_{scale}.backboneNet.p{3 + level}" for level in range(3 - scale)]
            output = network(pair, [self.feature(normal, 8 << level, name) for level, name in enumerate(names)])
            size = output.predictions[0].shape[-2:]
            stacks.append(torch.cat([F.interpolate(level, size=size) for level in output.predictions], 1))
            features.append(output.features)
        return stacks, features

    def adversarial(self, stacks: list[Tensor], mask: Tensor, sign: float, hinge: bool) -> Tensor:
        running = torch.zeros(())
        for stack in stacks:
            pooled = F.adaptive_avg_pool2d(mask, stack.shape[-2:])  # [N, h, w]: no channel axis
            total, weight = 0.0, 1.0
            for level in stack.split(1, 1):
                loss = F.relu(1 + sign * level) if hinge else sign * level
                running = running + weight * (loss * pooled).mean()
                total, weight = total + weight, weight / 2
            if stack.shape[1] > 1:
                running = running / total
        return running / len(stacks)


def norm_of(loss: Tensor, network: nn.Module) -> float:
    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


def write(folder: Path, shape: Shape, name: str = "made") -> Path:
    """Write a vector file of that shape."""
    torch.manual_seed(0)
    generator, discriminator = build(shape)
    stored, ids, condition = make_inputs(shape)
    weights = stand_ins(shape)
    released, image = Released(shape, discriminator, weights), stored["in.image"]

    generated = generator(condition)
    foreground = ~torch.isin(ids, torch.tensor(shape.ids))
    share = foreground.float().mean((1, 2), keepdim=True)
    mask = torch.where(foreground, 5.0, 1.0) / (5 * share + (1 - share))
    fake, fake_features = released.judge(condition, generated)
    real, real_features = released.judge(condition, image)
    soft, _ = released.judge(condition, F.interpolate(F.interpolate(image, scale_factor=0.5), scale_factor=2.0))
    fake_detached, _ = released.judge(condition, generated.detach())

    feat, vgg, sharp = shape.lambdas
    matching = sum(
        (one - other.detach()).abs().mean()
        for ours, theirs in zip(fake_features, real_features, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )
    perceptual = sum(
        (released.feature(generated, 2**k, f"VGG19.r{k + 1}") - released.feature(image, 2**k, f"VGG19.r{k + 1}"))
        .abs()
        .mean()
        * 2.0 ** (0 if k == 4 else k - 5)
        for k in range(5)
    )
    terms_of_generator = {
        "GAN": released.adversarial(fake, mask, -1, False),
        "GAN_Feat": feat * matching / len(fake),
        "VGG": vgg * perceptual,
    }
    judges = {
        "D_Fake": (
            released.adversarial(fake_detached, mask, 1, True) + sharp * released.adversarial(soft, mask, 1, True)
        )
        / (1 + sharp),
        "D_real": released.adversarial(real, mask, -1, True),
    }

    tensors = {f"G.{key}": value for key, value in official(generator).items()}
    tensors |= {f"D.{key}": value for key, value in official(discriminator).items()}
    halved = {
        key: value.half() if value.is_floating_point() and not key.endswith(("_u", "_v")) else value
        for key, value in tensors.items()
    }
    tensors = halved | weights | stored | {"out.generated": generated, "out.enhance_mask": mask}
    assert generator.global_encoder is not None
    for index, feature in enumerate(reversed(generator.global_encoder(condition))):
        tensors[f"out.global.{index}"] = feature[..., ::8, ::8] if feature.shape[-1] > 32 else feature
    for scale, (ours, theirs) in enumerate(zip(fake, real, strict=True)):
        tensors[f"out.D{scale}.fake"], tensors[f"out.D{scale}.real"] = ours, theirs
    values = {
        "config": shape.config,
        **{f"D{s}.features": [list(each.shape) for each in features] for s, features in enumerate(real_features)},
        "loss.generator": {term: value.item() for term, value in terms_of_generator.items()},
        "loss.discriminator": {term: value.item() for term, value in judges.items()},
        "grad_norm.generator": norm_of(sum(terms_of_generator.values(), torch.zeros(())), generator),
        "grad_norm.discriminator": norm_of(sum(judges.values(), torch.zeros(())), discriminator),
    }
    return write_vectors(folder, tensors, values, name)


# --- what was recorded --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "global_features"), [("v2_normal", 6), ("v2_more", 7)])
def test_released_networks_are_met_in_all_they_answered(golden_root: Path, name: str, global_features: int) -> None:
    rows = check_file(golden_root / f"{name}.safetensors")
    assert not failures(rows)
    assert all(row.max_abs < 2e-5 for row in rows)
    expected = {"out.generated", "out.enhance_mask", "grad_norm.generator", "grad_norm.discriminator"}
    expected |= {f"out.global.{index}" for index in range(global_features)}
    expected |= {f"out.D{scale}.{kind}" for scale in (0, 1) for kind in ("fake", "real")}
    expected |= {f"D{scale}.features" for scale in (0, 1)}
    expected |= {f"loss.generator.{term}" for term in ("GAN", "GAN_Feat", "VGG")}
    expected |= {f"loss.discriminator.{term}" for term in ("D_Fake", "D_real")}
    assert {row.output for row in rows} == expected


# --- files of other shapes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(size=(64, 96), classes=7, widths=(3, 2, 16, 8, 4, 16), ids=[]),
        Shape(discriminators=3, lambdas=(5, 2, 0.5)),
        Shape(discriminators=1),
        Shape(dont_care=True, ids=[1, 4]),
        Shape(edges="instance"),
        Shape(edges="inst", dont_care=True, discriminators=3),
        Shape(edges="edges"),
        Shape(edges="instance_edges"),
        Shape(upsampling="more", size=(64, 128), edges="instances"),
        Shape(upsampling="most", size=(128, 128), discriminators=3),
    ],
    ids=["plain", "wide", "three", "one", "dont-care", "instance", "all", "edges", "instance-edges", "more", "most"],
)
def test_made_files_of_any_shape_pass(tmp_path: Path, shape: Shape) -> None:
    rows = check_file(write(tmp_path, shape))
    assert not failures(rows)
    assert sum(row.output.startswith("out.D") for row in rows) == 2 * shape.discriminators
    assert {"grad_norm.generator", "loss.discriminator.D_Fake"} <= {row.output for row in rows}


@pytest.mark.slow
def test_the_number_of_classes_may_include_the_borders(tmp_path: Path) -> None:
    path = write(tmp_path, Shape(edges="instance"))
    values = json.loads(path.with_suffix(".json").read_text())
    values["config"]["num_classes"] += 1
    path.with_suffix(".json").write_text(json.dumps(values))
    rows = check_file(path)
    assert rows and [row for row in rows if not row.ok] == []


@pytest.mark.slow
def test_a_dont_care_value_in_the_label_map_is_the_last_channel(tmp_path: Path) -> None:
    path = write(tmp_path, Shape(dont_care=True, ids=[1, 4]))
    label = load_file(path)["in.label"]
    edit(path, {"in.label": torch.where(label == 4, 255, label)})
    assert not failures(check_file(path))


# --- what is wrong is seen ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("vectors"), Shape())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.generated", "out.global.3", "out.enhance_mask", "out.D1.real"])
def test_parity_wrong_tensor_fails_its_row_alone(made: Path, name: str) -> None:
    edit(made, nudged(made, name, 3e-4))
    assert list(failures(check_file(made))) == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "term"),
    [("loss.generator", "GAN_Feat"), ("loss.discriminator", "D_real"), ("grad_norm.generator", None)],
)
def test_parity_wrong_scalar_fails_its_row_alone(made: Path, key: str, term: str | None) -> None:
    value = json.loads(made.with_suffix(".json").read_text())[key]
    wrong = value * 1.0003 if term is None else value | {term: value[term] * 1.0003}
    edit(made, values={key: wrong})
    assert list(failures(check_file(made))) == [key if term is None else f"{key}.{term}"]


@pytest.mark.slow
def test_a_wrong_weight_is_seen_everywhere_behind_it(made: Path) -> None:
    edit(made, nudged(made, "G.fc.weight", 0.5))
    failed = failures(check_file(made))
    assert {"out.generated", "out.D0.fake", "loss.generator.VGG"} <= set(failed)
    assert not {"out.D0.real", "out.global.0", "out.enhance_mask"} & set(failed)


@pytest.mark.slow
def test_parity_fails_for_nan(made: Path) -> None:
    edit(made, nudged(made, "out.generated", math.nan), {"grad_norm.generator": math.nan})
    assert list(failures(check_file(made))) == ["out.generated", "grad_norm.generator"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "values", "failed", "reason"),
    [
        ({"out.surprise": torch.zeros(1)}, {}, "out.surprise", "cannot check"),
        ({"out.D2.fake": torch.zeros(2, 1, 2, 2)}, {}, "out.D2.fake", "cannot check"),
        ({"out.global.9": torch.zeros(2, 5, 2, 2)}, {}, "out.global.9", "cannot check"),
        ({"H.weight": torch.zeros(1)}, {}, "H.weight", "cannot check"),
        ({}, {"psnr": 3.0}, "psnr", "cannot check"),
        ({}, {"D7.features": []}, "D7.features", "cannot check"),
        ({}, {"loss.generator": {"Style": 1.0}}, "loss.generator.Style", "known terms"),
        ({}, {"loss.generator": {"VGG": "much"}}, "loss.generator.VGG", "not a number"),
        ({"out.generated": torch.zeros(2, 3, 10, 10)}, {}, "out.generated", "recorded as"),
        ({"in.image": torch.zeros(2, 3, 32, 32)}, {}, "out.D0.real", "cannot check"),
        ({"VGG19.r1.weight": None}, {}, "loss.generator", "cannot check"),
        ({"G.surprise": torch.zeros(1)}, {}, "made.safetensors", "unknown surprise"),
        ({"G.conv_img.bias": torch.zeros(4)}, {}, "made.safetensors", "needs [3]"),
        ({"D.discriminator_0.gcb1.0.0.weight_orig": None}, {}, "made.safetensors", "lacks discriminator_0.gcb1"),
        ({"in.label": None}, {}, "made.safetensors", "in.label"),
        ({"in.label": torch.full((2, 1, 64, 64), 9)}, {}, "made.safetensors", "ids up to 9"),
        ({}, {"config": {}}, "made.safetensors", "num_upsampling_layers is None"),
        ({}, {"config": None}, "made.safetensors", "config"),
    ],
)
def test_parity_fails_for_what_cannot_be_checked(
    made: Path, tensors: dict[str, Tensor | None], values: dict[str, Any], failed: str, reason: str
) -> None:
    edit(made, tensors, values)
    assert reason in failures(check_file(made))[failed]


def test_files_that_cannot_be_read_fail(made: Path) -> None:
    made.with_suffix(".json").unlink()
    assert "JSON" in failures(check_file(made))["made.safetensors"]
    made.write_bytes(b"no tensors")
    assert "cannot read" in failures(check_file(made))["made.safetensors"]


@pytest.mark.slow
def test_parity_of_files_and_folders(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(made.parent, Shape(discriminators=1), "other")
    assert list(check_files([made.parent])) == [made, other]
    assert run_parity([made, other])
    assert "right" in capsys.readouterr().out
    edit(other, {"out.surprise": torch.zeros(1)})
    assert not run_parity([made.parent])
    assert "FAIL" in capsys.readouterr().out
    for nothing in (made.parent / "nowhere.safetensors", made.parent / "empty"):
        (made.parent / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="no vector file"):
            check_files([nothing])
