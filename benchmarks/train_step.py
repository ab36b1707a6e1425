"""Time and peak memory of one Lab2Pix-V2 training step, part by part, and the same step with each saving switched off.

    python benchmarks/train_step.py --width 64 --size 256 256 --repeats 5 --out benchmarks/results/train_step.json

The savings are the product's own step; switching one off puts the plain way in its place, the way the released code and
SPADE do it. All variants run in one process, turn by turn, so that a drifting machine slows all of them alike.
Backbones hold random weights: neither time nor memory depends on their values.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lab2pix
from lab2pix.batch import Batch
from lab2pix.configuration import load_config
from lab2pix.labels import LabelSpace
from lab2pix.losses import adversarial_loss, blurred, feature_matching_loss
from lab2pix.methods import Engine, lab2pix_v2, make_condition
from lab2pix.methods.eyes import Eyes, Sight
from lab2pix.methods.lab2pix_v2 import Carry, Lab2PixV2, pyramid
from lab2pix.nn import encoders
from lab2pix.nn.modulation import SPADE
from lab2pix.nn.spectral import SpectralConv2d

ENGINE = Engine()
BOUNDARY = "discriminators' half"


@dataclass(frozen=True)
class Savings:
    """What the step does not compute twice, or does not keep; each can be switched off."""

    generator_once: bool = True
    discriminator_one_pass: bool = True
    discriminator_frozen: bool = True
    real_without_graph: bool = True
    group_by_group: bool = True
    features_once: bool = True
    distinct_global: bool = True
    in_place: bool = True
    labels_once: bool = True
    weights_undivided: bool = True


MEANING = {
    "generator_once": "off: the discriminators' step generates its image anew",
    "discriminator_one_pass": "off: generated with real, then blurred with real once more, in two passes",
    "discriminator_frozen": "off: the generator's step fills discriminator gradients that nobody uses",
    "real_without_graph": "off: generated and real pass the discriminators together in the generator's step",
    "group_by_group": "off: the graphs of all scales and networks are in memory together",
    "features_once": "off: a backbone per discriminator, every image seen anew, with a graph back to the image",
    "distinct_global": "off: the global feature's convolution runs over the enlarged map, pixel by pixel",
    "in_place": "off: normalised * (1 + gamma) + beta and LeakyReLU keep their inputs, as SPADE's and the released",
    "labels_once": "off: every norm resizes the full one-hot label map for itself, at equal size too, as SPADE does",
    "weights_undivided": "off: spectral norm makes a divided copy of every weight, and more in the backward pass",
}


class PlainEyes(nn.Module):
    """Backbones as the plain code holds them: one copy per discriminator and one for the loss."""

    def __init__(self, eyes: Eyes, copies: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList([eyes, *(copy.deepcopy(eyes) for _ in range(copies))])
        self.shared = False

    def forward(self, image: Tensor, *, levels: int, perceptual: bool) -> Sight:
        """Look twice: through a discriminator's own copy, and through the loss's."""
        sight = Sight()
        if levels:
            sight.discriminator.extend(self.copies[4 - levels](image, levels=levels, perceptual=False).discriminator)
        if perceptual:
            sight.perceptual.extend(self.copies[0](image, levels=0, perceptual=True).perceptual)
        return sight


class Variant(Lab2PixV2):
    """The product's step, with some savings switched off."""

    savings = Savings()
    batch: Batch
    noise: Tensor

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: Engine
    ) -> tuple[Carry, dict[str, Tensor]]:
        """Switch the generator's half."""
        self.batch, self.noise = batch, noise
        frozen = lab2pix_v2.frozen
        try:
            if not self.savings.discriminator_frozen:
                lab2pix_v2.frozen = lambda network: nullcontext()  # type: ignore[assignment]
            half = super().generator_backward if self.savings.group_by_group else self._all_at_once
            carry, losses = half(generator, batch, noise, engine)
            theirs = [[feature.detach() for feature in features] for features in carry.real_features]
            return replace(carry, real_features=theirs), losses
        finally:
            lab2pix_v2.frozen = frozen

    def _all_at_once(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: Engine
    ) -> tuple[Carry, dict[str, Tensor]]:
        condition = make_condition(self.config, self.label_space, batch)
        generated = pyramid(generator(condition, noise), self.scales)
        assert batch.image is not None
        real, conditions = pyramid(batch.image, self.scales), pyramid(condition, self.scales)
        mask = self._mask(batch)
        seen: list[tuple[list[Tensor], list[Tensor]]] = []
        with lab2pix_v2.frozen(self.discriminator):
            terms = [
                value
                for scale in range(self.scales)
                for group in self._generator_terms(
                    scale, generated[scale], real[scale], conditions[scale], mask, engine, seen
                )
                for value in group.values()
            ]
            torch.stack(terms).sum().backward()
        ours, theirs = ([pair[side] for pair in seen] for side in (0, 1))
        return Carry(conditions, [image.detach() for image in generated], real, ours, theirs, mask), {}

    def _look(self, generated: Tensor, real: Tensor, *, levels: int, perceptual: bool) -> tuple[Sight, Sight]:
        if self.savings.real_without_graph or not levels:
            return super()._look(generated, real, levels=levels, perceptual=perceptual)
        both = self.eyes(torch.cat([generated, real]), levels=levels, perceptual=False).discriminator
        halves = [feature.chunk(2) for feature in both]
        ours, theirs = super()._look(generated, real, levels=0, perceptual=perceptual)
        return Sight([own for own, _ in halves], ours.perceptual), Sight(
            [true for _, true in halves], theirs.perceptual
        )

    def _judgement(self, scale, generated, real, condition, mask, ours, theirs):  # type: ignore[no-untyped-def]
        if self.savings.real_without_graph:
            return super()._judgement(scale, generated, real, condition, mask, ours, theirs)
        features = [torch.cat(pair) for pair in zip(ours, theirs, strict=True)]
        output = self._judge(scale, torch.cat([generated, real]), torch.cat([condition] * 2), features)
        halves = [layer.chunk(2) for layer in output.features]
        judged = [prediction.chunk(2)[0] for prediction in output.predictions]
        adversarial = adversarial_loss([judged], self.generator_term, [self.weights[scale]], mask)
        distance = feature_matching_loss([[fake for fake, _ in halves]], [[true.detach() for _, true in halves]])
        return {"adversarial": adversarial, "feature_matching": self.config.loss.feature_matching * distance}

    def discriminator_backward(self, discriminator: nn.Module, carry: Carry, engine: Engine) -> dict[str, Tensor]:
        """Switch the discriminators' half."""
        discriminator.zero_grad(set_to_none=True)
        if not self.savings.generator_once:
            with torch.no_grad():
                condition = make_condition(self.config, self.label_space, self.batch)
                carry = replace(carry, generated=pyramid(self.generator(condition, self.noise), self.scales))
        if self.savings.discriminator_one_pass and self.savings.features_once:
            return super().discriminator_backward(discriminator, carry, engine)
        return self._plain_discriminator(discriminator, carry)

    def _plain_discriminator(self, discriminator: nn.Module, carry: Carry) -> dict[str, Tensor]:
        soft = pyramid(blurred(carry.real[0]), self.scales)
        known = {id(carry.generated): carry.generated_features, id(carry.real): carry.real_features}

        def judge(*groups: list[Tensor]) -> list[list[list[Tensor]]]:
            together = [torch.cat(parts) for parts in zip(*groups, strict=True)]
            if self.savings.features_once:
                features = [known[id(group)] if id(group) in known else self._see(group) for group in groups]
                seen = [[torch.cat(p) for p in zip(*(f[s] for f in features), strict=True)] for s in range(self.scales)]
            else:
                together = [image.requires_grad_() for image in together]
                seen = [
                    self.eyes(image, levels=self._levels(scale), perceptual=False).discriminator
                    for scale, image in enumerate(together)
                ]
            inputs = [
                torch.cat([torch.cat([carry.conditions[s]] * len(groups)), together[s]], 1) for s in range(self.scales)
            ]
            outputs = discriminator(inputs, seen)
            return [
                [[level.chunk(len(groups))[kind] for level in output.predictions] for output in outputs]
                for kind in range(len(groups))
            ]

        if self.savings.discriminator_one_pass:
            fake, real, soft_out = judge(carry.generated, carry.real, soft)
            reals = [real, real]
        else:
            fake, real = judge(carry.generated, carry.real)
            soft_out, again = judge(soft, carry.real)
            reals = [real, again]
        terms = {
            "fake": 0.5 * adversarial_loss(fake, self.fake_term, self.weights, carry.mask),
            "blurred": 0.5 * adversarial_loss(soft_out, self.fake_term, self.weights, carry.mask),
            "real": sum(0.5 * adversarial_loss(out, self.real_term, self.weights, carry.mask) for out in reals),
        }
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[arg-type]
        return terms  # type: ignore[return-value]

    def _see(self, group: list[Tensor]) -> list[list[Tensor]]:
        with torch.no_grad():
            return [
                self.eyes(image, levels=self._levels(scale), perceptual=False).discriminator
                for scale, image in enumerate(group)
            ]


class Modulation:
    """How the norms run: the product's way, or with `in_place` or `labels_once` switched off."""

    def __init__(self, method: Variant) -> None:
        self.method, self.lean, self.undivided = method, SPADE.forward, SpectralConv2d._shortens
        self.label: Tensor
        method.generator.register_forward_pre_hook(self._see)

    def _see(self, generator: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.label = inputs[0]

    def use(self, savings: Savings) -> None:
        """Switch norms, activations and spectral norm; the global encoder's and the last activation stay in place."""
        lean = self.lean

        def forward(
            norm: SPADE, x: Tensor, label: Tensor, global_feature: Tensor | None = None, *, slope: float = 1.0
        ) -> Tensor:
            if not savings.labels_once:
                label = F.interpolate(self.label, size=x.shape[-2:], mode="nearest")
            if savings.in_place:
                return lean(norm, x, label, global_feature, slope=slope)
            hidden = F.relu(norm.shared(label))
            if global_feature is not None:
                hidden = hidden + global_feature
            modulated = norm.norm(x) * (1 + norm.gamma(hidden)) + norm.beta(hidden)
            return modulated if slope == 1 else F.leaky_relu(modulated, slope)

        SPADE.forward = lean if savings.in_place and savings.labels_once else forward  # type: ignore[method-assign]
        SpectralConv2d._shortens = (  # type: ignore[method-assign]
            self.undivided if savings.weights_undivided else lambda conv, x, weight: False
        )
        for module in self.method.discriminator.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = savings.in_place


def plain_conv3x3_of_enlarged(small: Tensor, weight: Tensor, bias: Tensor | None, factor: int) -> Tensor:
    """Enlarge, then convolve every pixel."""
    enlarged = F.interpolate(small, scale_factor=float(factor))
    return F.relu(F.conv2d(enlarged, weight, bias, padding=1))


class Meter:
    """Peak of the memory that torch holds while a function runs, from its own record of allocations."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def peaks(self, first: Callable[[], Any], then: Callable[[Any], Any]) -> tuple[float, float]:
        """Return the peaks of two halves, each above what was held before the first, in MiB."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            between = first()
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            then(between)
            return (peak - before) / 2**20, (torch.cuda.max_memory_allocated() - before) / 2**20
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            between = first()
            with torch.profiler.record_function(BOUNDARY):
                then(between)
        events = list(profile.profiler.kineto_results.events())  # type: ignore[union-attr]
        boundary = next(event.start_ns() for event in events if event.name() == BOUNDARY)
        held, highest = 0, [0, 0]
        for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            half = int(event.start_ns() >= boundary)
            highest[half] = max(highest[half], held)
        return highest[0] / 2**20, highest[1] / 2**20


def build(args: argparse.Namespace) -> tuple[Variant, Batch, Tensor]:
    """Return the step under test with random weights, and something to train on."""
    config = load_config(
        "v2-cityscapes",
        [
            f"data.size=[{args.size[0]},{args.size[1]}]",
            "generator.doublings=5",
            f"generator.width={args.width}",
            f"discriminator.width={args.width}",
            f"discriminator.max_width={8 * args.width}",
            f"backbone.discriminator={args.backbones[0]}",
            f"backbone.perceptual={args.backbones[1]}",
            f"train.batch_size={args.batch}",
            "data.instance_edges=false",
        ],
    )
    torch.manual_seed(0)
    method = Variant(config, LabelSpace.load("cityscapes"), pretrained=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device)
    height, width = args.size
    blocks = torch.randint(0, 35, (args.batch, height // 16, width // 16))
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    batch = Batch(label=label, image=torch.rand(args.batch, 3, height, width) * 2 - 1).to(device)
    return method, batch, torch.randn(args.batch, config.generator.noise_dim, device=device)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbones", nargs=2, default=("vgg16", "vgg19"), metavar=("DISCRIMINATOR", "PERCEPTUAL"))
    parser.add_argument("--only-ends", action="store_true", help="measure all savings and none, not each by itself")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    method, batch, noise = build(args)
    meter = Meter(batch.label.device)
    distinct = encoders.conv3x3_of_enlarged
    saving_eyes, plain_eyes = method.eyes, PlainEyes(method.eyes, method.scales)
    everything, modulation = Savings(), Modulation(method)
    names = [field.name for field in fields(Savings)]
    variants = {"all savings": everything}
    if not args.only_ends:
        variants |= {f"without {name}": replace(everything, **{name: False}) for name in names}
    variants["no savings"] = Savings(**dict.fromkeys(names, False))

    def use(savings: Savings) -> None:
        method.savings = savings
        method.eyes = saving_eyes if savings.features_once else plain_eyes  # type: ignore[assignment]
        modulation.use(savings)
        encoders.conv3x3_of_enlarged = distinct if savings.distinct_global else plain_conv3x3_of_enlarged

    def generator_half() -> Carry:
        method.generator.zero_grad(set_to_none=True)
        return method.generator_backward(method.generator, batch, noise, ENGINE)[0]

    def discriminator_half(carry: Carry) -> None:
        method.discriminator_backward(method.discriminator, carry, ENGINE)

    def sync() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for repeat in range(args.repeats + 1):
        for name, savings in variants.items():
            use(savings)
            start = time.perf_counter()
            carry = generator_half()
            sync()
            middle = time.perf_counter()
            discriminator_half(carry)
            sync()
            if repeat:  # the first round warms up
                times[name].append((middle - start, time.perf_counter() - middle))
    rows = []
    for name, savings in variants.items():
        use(savings)
        method.generator.zero_grad(set_to_none=True)
        method.discriminator.zero_grad(set_to_none=True)
        peaks = meter.peaks(generator_half, discriminator_half)
        halves = [statistics.median(column) for column in zip(*times[name], strict=True)]
        whole = statistics.median(sum(pair) for pair in times[name])
        parts = {"generator_s": halves[0], "discriminator_s": halves[1], "step_s": whole}
        parts |= {"generator_mib": peaks[0], "discriminator_mib": peaks[1], "peak_mib": max(peaks)}
        rows.append({"variant": name, **parts})
    report(rows, args, method)


def processor() -> str:
    """Return what the machine computes on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def report(rows: list[dict[str, Any]], args: argparse.Namespace, method: Variant) -> None:
    """Print the table, and write it with machine, versions and command where asked."""
    plain = rows[-1]
    print(f"{'':<34}{'generator':>17}{'discriminators':>17}{'step':>26}")
    print(f"{'variant':<34}{'s':>8}{'MiB':>9}{'s':>8}{'MiB':>9}{'s':>8}{'ratio':>7}{'MiB':>6}{'ratio':>7}")
    for row in rows:
        row["time_ratio"] = row["step_s"] / plain["step_s"]
        row["memory_ratio"] = row["peak_mib"] / plain["peak_mib"]
        print(
            f"{row['variant']:<34}{row['generator_s']:>8.2f}{row['generator_mib']:>9.0f}{row['discriminator_s']:>8.2f}"
            f"{row['discriminator_mib']:>9.0f}{row['step_s']:>8.2f}{row['time_ratio']:>7.2f}{row['peak_mib']:>6.0f}"
            f"{row['memory_ratio']:>7.2f}"
        )
    print("\n".join(f"  {name}: {text}" for name, text in MEANING.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps(
                {
                    "command": " ".join(["python", *sys.argv]),
                    "machine": f"{processor()}, {torch.get_num_threads()} threads",
                    "versions": {"lab2pix": lab2pix.__version__, "torch": torch.__version__},
                    "parameters": {
                        name: sum(p.numel() for p in player.parameters()) for name, player in method.players.items()
                    },
                    "peak": "above weights and whatever the step before left, by torch's record of allocations",
                    "rows": rows,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
