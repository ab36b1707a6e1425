"""Parity of the released V1 networks, and vector files of other shapes with reference functions."""

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
from torch import Tensor

from lab2pix.nn.official_v1 import OfficialNorm, OfficialV1Discriminator, OfficialV1Generator, Task
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import edit, failures, nudged, write_vectors

SEEN = (5, 6, 7)
TASKS = {"semantic": "semantic2image", "sketch": "sketch2image"}


@dataclass(frozen=True)
class Shape:
    """What a made-up vector file is like."""

    task: Task = "semantic"
    norm: OfficialNorm = "batch"
    classes: int = 4
    size: tuple[int, int] = (128, 256)
    widths: tuple[int, int, int, int, int] = (2, 3, 5, 10, 16)
    rate: float = 2.0
    ids: list[int] = field(default_factory=lambda: [0, 2])

    @property
    def config(self) -> dict[str, Any]:
        names = ("ngf", "ndf", "modulation_hidden", "max_dim", "noise_dim")
        return {
            **dict(zip(names, self.widths, strict=True)), "task": TASKS[self.task], "norm": self.norm,
            "num_classes": self.classes, "height": self.size[0], "width": self.size[1], "foreground_T": self.rate,
            "gan": "vanilla (sigmoid + binary cross entropy)",
        }  # fmt: skip


def random_weights(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return weights, means and variances that are all random and keep values in range."""
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:
            tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.normal_(0.5 if name.endswith("weight") else 0, 0.2)
    return {name: tensor.clone() for name, tensor in state.items()}


def make_weights(shape: Shape) -> dict[str, Tensor]:
    ngf, ndf, hidden, max_dim, noise_dim = shape.widths
    start = (shape.size[0] // 128, shape.size[1] // 128) if shape.task == "semantic" else (2, 2)
    generator = OfficialV1Generator(
        shape.classes, task=shape.task, width=ngf, hidden=hidden, norm=shape.norm, noise_dim=noise_dim, start_size=start
    )
    weights = {f"G.{name}": value for name, value in random_weights(generator).items()}
    for levels in (1, 2, 3):
        judge = OfficialV1Discriminator(SEEN[:levels], width=ndf, max_width=max_dim, norm=shape.norm)
        weights |= {f"D{levels}.{name}": value for name, value in random_weights(judge).items()}
        for level in range(levels):
            weights[f"D{levels}.backboneNet.p{3 + level}.weight"] = torch.randn(SEEN[level], 3, 1, 1)
            weights[f"D{levels}.backboneNet.p{3 + level}.bias"] = torch.randn(SEEN[level])
    for layer in range(1, 6):
        weights[f"VGG19.r{layer}.weight"], weights[f"VGG19.r{layer}.bias"] = torch.randn(4, 3, 1, 1), torch.randn(4)
    return weights


class Plain:
    """The released networks as functions of a dictionary of weights."""

    def __init__(self, shape: Shape, weights: dict[str, Tensor]) -> None:
        self.shape, self.weights = shape, weights

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.shape.norm == "instance":
            mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
            return (x - mean) / (var + 1e-5).sqrt()
        parts = (self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        mean, var, scale, shift = (part[None, :, None, None] for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def label(self, label: Tensor, size: torch.Size) -> Tensor:
        """Reduce ids `[N, H, W]` to their highest, a sketch `[N, 1, H, W]` to its mean."""
        factor = label.shape[-1] // size[-1]
        if self.shape.task == "sketch":
            return F.avg_pool2d(label, factor)
        n, h, w = label.shape
        highest = label.view(n, h // factor, factor, w // factor, factor).amax((2, 4))
        return torch.stack([(highest == index).float() for index in range(self.shape.classes)], 1)

    def spade(self, name: str, x: Tensor, label: Tensor) -> Tensor:
        hidden = self.conv(f"{name}.common_conv.0", self.label(label, x.shape[-2:])).relu()
        modulated = self.norm(f"{name}.normalization", x) * self.conv(f"{name}.mul_conv", hidden)
        return self.conv(f"{name}_.1", (modulated + self.conv(f"{name}.add_conv", hidden)).relu())

    def fuse(self, name: str, before: Tensor, after: Tensor, label: Tensor) -> Tensor:
        before = self.conv(f"{name}.input1.0", twice(before)).relu()
        seen = self.norm(
            f"{name}.seg_process.2", self.conv(f"{name}.seg_process.0", self.label(label, after.shape[-2:])).relu()
        )
        parts = [self.norm(f"{name}.norm1", before), self.norm(f"{name}.norm2", after), seen]
        mask = self.conv(f"{name}.mask.0", torch.cat(parts, 1)).sigmoid()
        return mask * before + (1 - mask) * after

    def generate(self, label: Tensor, noise: Tensor) -> list[Tensor]:
        if self.shape.task == "sketch":
            first, x = 3, label
            for index in range(6):
                x = self.conv(f"G.encoder.model.{3 * index}", x, stride=2 if index else 1)
                x = self.norm(f"G.encoder.model.{3 * index + 1}", x).relu()
        else:
            first, x = 1, F.linear(noise, self.weights["G.noise_process.weight"], self.weights["G.noise_process.bias"])
            x = x.view(len(noise), -1, self.shape.size[0] // 128, self.shape.size[1] // 128)
        images = []
        for index in range(first, 8):
            name = f"G.SPADEResBlock_{index}"
            out = self.spade(f"{name}.SPADE_2", self.spade(f"{name}.SPADE_1", x, label), label)
            if index > 3:
                out = out + self.spade(f"{name}.SPADE_res", x, label)
            out = twice(out)
            if index >= 5:
                out = self.fuse(f"{name}_fusion", x, out, label)
                images.append(self.conv(f"G.out_{index}.0", out).tanh())
            x = out
        return images[::-1]

    def eye(self, name: str, image: Tensor, factor: int) -> Tensor:
        return F.conv2d(F.avg_pool2d(image, factor), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def judge(self, scale: int, x: Tensor) -> list[Tensor]:
        name, image, answers = f"D{scale}", x, []
        for index in (0, 3, 6):
            x = leaky(self.norm(f"{name}.common.{index + 1}", self.conv(f"{name}.common.{index}", x, stride=2)))
        for level in range(1, scale + 1):
            seen = self.eye(f"{name}.backboneNet.p{2 + level}", image, 4 * 2**level)
            x = torch.cat([x, leaky(self.norm(f"{name}.pre{level}.0", seen))], 1)
            x = leaky(self.norm(f"{name}.gcb{level}.1", self.conv(f"{name}.gcb{level}.0", x)))
            head = f"{name}.conv{level}_out"
            answers.append(self.conv(f"{head}.2", leaky(self.norm(f"{head}.0", x))).sigmoid())
            if level < scale:
                x = self.inception(f"{name}.conv{level}_line.0", x)
        return answers

    def inception(self, name: str, x: Tensor) -> Tensor:
        pool = leaky(self.norm(f"{name}.pool_branch.2", self.conv(f"{name}.pool_branch.1", F.avg_pool2d(x, 2))))
        branches = [pool]
        for branch, strides in (("conv3_branch", (1, 2)), ("conv5_branch", (1, 1, 2))):
            y = x
            for index, stride in enumerate(strides):
                y = self.conv(f"{name}.{branch}.{3 * index}", y, stride)
                y = leaky(self.norm(f"{name}.{branch}.{3 * index + 1}", y))
            branches.append(y)
        return sum(branches[1:], branches[0])

    def consistency(self, larger: Tensor, smaller: Tensor) -> Tensor:
        pooled = F.avg_pool2d(larger, 2)
        names = [(f"VGG19.r{layer}", 2 ** (layer - 1)) for layer in range(1, 6)]
        return sum(
            (
                (self.eye(name, pooled, factor) - self.eye(name, smaller, factor)).square().mean()
                for name, factor in names
            ),
            torch.zeros(()),
        )


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def entropy(levels: list[Tensor], target: float, mask: Tensor | None) -> Tensor:
    """Binary cross entropy over levels; the mask lacks the channel axis, as in the released code."""
    total, weight, weights = torch.zeros(()), 1.0, 0.0
    for level in levels:
        values = F.binary_cross_entropy(level, torch.full_like(level, target), reduction="none")
        if mask is not None:
            mask = F.avg_pool2d(mask[:, None], mask.shape[-1] // level.shape[-1])[:, 0]
            values = values * mask
        total, weights, weight = total + weight * values.mean(), weights + weight, weight / 2
    return total / weights


@torch.no_grad()
def write(folder: Path, shape: Shape) -> Path:
    """Write a vector file of that shape."""
    torch.manual_seed(0)
    weights = make_weights(shape)
    plain, (height, width) = Plain(shape, weights), shape.size
    image, noise = torch.rand(2, 3, height, width) * 2 - 1, torch.randn(2, shape.widths[-1])
    stored, mask = {"in.image": image, "in.noise": noise}, None
    if shape.task == "sketch":
        stored["in.sketch"] = torch.rand(2, 1, height // 8, width // 8).sub(0.2).sign()
        label = stored["in.sketch"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    else:
        label = torch.randint(shape.classes, (2, height, width))
        stored["in.label"] = label.to(torch.uint8)
        front = torch.ones(2, height, width)
        for index in shape.ids:
            front[label == index] = 0
        share = front.mean((1, 2), keepdim=True)
        mask = (front * (shape.rate - 1) + 1) / (shape.rate * share + 1 - share)
        stored["out.enhance_mask"] = mask[:, ::16, ::16]

    fakes = plain.generate(label, noise)
    reals = [image, F.avg_pool2d(image, 2), F.avg_pool2d(image, 4)]
    losses: dict[str, list[Tensor]] = {"G_GAN": [], "D_fake": [], "D_real": [], "D_blurred": []}
    for scale, fake, real in zip((3, 2, 1), fakes, reals, strict=True):
        judged, true = plain.judge(scale, fake), plain.judge(scale, real)
        losses["G_GAN"].append(entropy(judged, 1.0, mask))
        losses["D_fake"].append(entropy(judged, 0.0, mask))
        losses["D_real"].append(entropy(true, 1.0, None))
        losses["D_blurred"].append(entropy(plain.judge(scale, twice(F.avg_pool2d(real, 2))), 0.0, None))
        stored[f"out.X{scale}"] = fake[..., ::2, ::2] if scale == 3 else fake
        for level, (one, other) in enumerate(zip(judged, true, strict=True), start=1):
            stored[f"out.D{scale}.fake.level{level}"], stored[f"out.D{scale}.real.level{level}"] = one, other
    losses["consistency"] = [plain.consistency(fakes[0], fakes[1]), plain.consistency(fakes[1], fakes[2])]
    values = {
        "config": shape.config,
        "note": "made up",
        "losses_by_scale_X3_X2_X1": {term: [value.item() for value in row] for term, row in losses.items()},
    }
    if shape.task == "semantic":
        values["background_ids"] = shape.ids
    return write_vectors(folder, weights | stored, values)


def expected_rows(task: Task) -> set[str]:
    rows = {f"out.X{scale}" for scale in (1, 2, 3)} | ({"out.enhance_mask"} if task == "semantic" else set())
    for scale in (1, 2, 3):
        rows |= {f"out.D{scale}.{kind}.level{level}" for kind in ("fake", "real") for level in range(1, scale + 1)}
        rows |= {f"losses.{term}.X{scale}" for term in ("G_GAN", "D_fake", "D_real", "D_blurred")}
    return rows | {"losses.consistency.X3-X2", "losses.consistency.X2-X1"}


# --- what was recorded --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", ["semantic", "sketch"])
def test_released_networks_are_met_in_all_they_answered(golden_root: Path, task: Task) -> None:
    rows = check_file(golden_root / f"v1_{task}.safetensors")
    assert not failures(rows)
    # From the same networks in float64 the recording is up to 1.5e-5 away and float32, by processor, up to 3.4e-5.
    assert all(row.max_abs < 5e-5 for row in rows)
    assert {row.output for row in rows} == expected_rows(task)


# --- files of other shapes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(norm="instance", classes=7, size=(256, 256), widths=(3, 4, 6, 9, 8), rate=3.0, ids=[1, 6]),
        Shape(size=(256, 128), classes=2, widths=(4, 2, 8, 12, 128), ids=[]),
        Shape(task="sketch", norm="instance", classes=1, size=(64, 96), widths=(3, 4, 6, 9, 8)),
        Shape(task="sketch", norm="batch", classes=1, size=(64, 64)),
    ],
    ids=["batch", "instance", "upright", "sketch", "sketch-batch"],
)
def test_other_widths_norms_and_classes_agree_with_plain_functions(tmp_path: Path, shape: Shape) -> None:
    rows = check_file(write(tmp_path, shape))
    assert not failures(rows)
    assert {row.output for row in rows} == expected_rows(shape.task)


# --- what is wrong fails ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("original"), Shape(size=(128, 128)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["out.X3", "out.X2", "out.X1", "out.D3.fake.level3", "out.D1.real.level1", "out.enhance_mask"]
)
def test_v1_parity_wrong_tensor_fails_its_row_alone(made: Path, name: str) -> None:
    edit(made, nudged(made, name, 3e-4))
    assert list(failures(check_file(made))) == [name]
    edit(made, nudged(made, name, math.nan))
    assert list(failures(check_file(made))) == [name]


@pytest.mark.slow
@pytest.mark.parametrize(("term", "place"), [("G_GAN", "X1"), ("D_blurred", "X3"), ("consistency", "X2-X1")])
def test_v1_parity_wrong_scalar_fails_its_row_alone(made: Path, term: str, place: str) -> None:
    losses = json.loads(made.with_suffix(".json").read_text())["losses_by_scale_X3_X2_X1"]
    losses[term][0 if place == "X3" else -1] *= 1.0003
    edit(made, values={"losses_by_scale_X3_X2_X1": losses})
    assert list(failures(check_file(made))) == [f"losses.{term}.{place}"]


def test_a_wrong_weight_is_seen_behind_it_and_nowhere_else(made: Path) -> None:
    edit(made, nudged(made, "D2.gcb2.0.weight", 9.0))
    failed = set(failures(check_file(made)))
    assert {"out.D2.fake.level2", "out.D2.real.level2", "losses.D_real.X2", "losses.D_blurred.X2"} <= failed
    assert all("D2" in name or "X2" in name for name in failed)
    assert not {"out.X2", "out.D2.fake.level1", "losses.consistency.X2-X1"} & failed


def test_each_batch_statistic_counts(made: Path) -> None:
    edit(made, nudged(made, "G.SPADEResBlock_7_fusion.norm2.running_mean", 2.0))
    failed = set(failures(check_file(made)))
    assert "out.X3" in failed
    assert not {"out.X2", "out.X1"} & failed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "values", "failed", "reason"),
    [
        ({"out.X4": torch.zeros(1)}, {}, "out.X4", "no such output"),
        ({"out.D1.fake.level2": torch.zeros(2, 1, 4, 4)}, {}, "out.D1.fake.level2", "no such output"),
        ({"out.X1": torch.zeros(2, 3, 10, 10)}, {}, "out.X1", "recorded as"),
        ({}, {"losses_by_scale_X3_X2_X1": [1.0]}, "losses_by_scale_X3_X2_X1", "cannot check"),
        ({}, {"losses_by_scale_X3_X2_X1": {"Style": [1.0]}}, "losses.Style", "known terms"),
        ({}, {"losses_by_scale_X3_X2_X1": {"G_GAN": [1.0]}}, "losses.G_GAN", "computed are 3 values"),
        ({}, {"losses_by_scale_X3_X2_X1": {"G_GAN": [1.0, "x", 1.0]}}, "losses.G_GAN.X2", "not a number"),
        ({"VGG19.r1.weight": None}, {}, "losses_by_scale_X3_X2_X1", "cannot check"),
        ({"in.noise": None}, {}, "out.X3", "starts from noise"),
        ({"in.image": torch.zeros(2, 3, 32, 32)}, {}, "out.D3.real.level1", "recorded as"),
        ({}, {"background_ids": None}, "out.enhance_mask", "background_ids"),
        ({"G.surprise": torch.zeros(1)}, {}, "made.safetensors", "unknown surprise"),
        ({"D2.gcb1.0.bias": None}, {}, "made.safetensors", "lacks gcb1.0.bias"),
        ({"G.out_5.0.weight": torch.zeros(3, 9, 3, 3)}, {}, "made.safetensors", "configured network needs"),
        ({"in.label": None}, {}, "made.safetensors", "in.label"),
        ({"in.label": torch.full((2, 128, 128), 9)}, {}, "made.safetensors", "ids up to 9"),
        ({}, {"config": {}}, "made.safetensors", "lacks"),
        ({}, {"config": Shape(norm="instance").config}, "made.safetensors", "says norm 'instance'"),
        ({}, {"config": Shape(classes=5).config}, "made.safetensors", "says classes 5"),
    ],
)
def test_v1_parity_fails_for_what_cannot_be_checked(
    made: Path, tensors: dict[str, Tensor | None], values: dict[str, Any], failed: str, reason: str
) -> None:
    edit(made, tensors, values)
    assert reason in failures(check_file(made))[failed]


def test_a_file_without_networks_or_answers_fails(made: Path) -> None:
    held = load_file(made)
    edit(made, {name: None for name in held if name.startswith("out.")})
    assert "no recorded output" in failures(check_file(made))["made.safetensors"]
    edit(made, {name: None for name in held if name.startswith("D3.")})
    assert "not the networks of any method" in failures(check_file(made))["made.safetensors"]


def test_a_file_with_two_discriminators_is_checked_in_what_it_holds(made: Path) -> None:
    losses = json.loads(made.with_suffix(".json").read_text())["losses_by_scale_X3_X2_X1"]
    fewer = {term: row if term == "consistency" else row[:2] for term, row in losses.items()}
    gone = {name: None for name in load_file(made) if name.startswith(("D1.", "out.D1."))}
    edit(made, gone, {"losses_by_scale_X3_X2_X1": fewer})
    rows = check_file(made)
    assert not failures(rows)
    assert "losses.G_GAN.X2" in {row.output for row in rows}
