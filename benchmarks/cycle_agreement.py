"""How well generated scenes follow their label maps, as a network sees it that took no part in the training.

python benchmarks/cycle_agreement.py runs/v1 runs/v1-without-cycle --out agreement.json

A small U-Net learns to read label maps from drawn scenes of another world than the runs' own, with pairs. It then reads
the pictures that each run drew of held-out label maps, and is compared with these: share of right pixels (PPA) and mean
IoU. Above all runs stands what it reads in the true pictures; below, what pictures of other label maps get by chance.

Runs that draw from sketches have no classes to agree with, but a sketch says where things end. So the borders in their
pictures are compared with the drawn lines (precision, recall and F1, with a tolerance of one pixel). They are found the
way the sketches were made: as borders between the classes that the U-Net reads, or as Canny's edges of the picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from surroundings import surroundings
from torch import Tensor, nn

from lab2pix import Synthesizer
from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.sketches import borders, find_edges
from lab2pix.data.transforms import float_to_uint8, uint8_to_float
from lab2pix.errors import Lab2PixError
from lab2pix.labels.space import LabelSpace

WORLD = 7919
"""Seed of the scenes that the U-Net learns from."""
HELD_OUT = 10**6
"""Number of the first of its scenes that it does not learn from."""
AT_ONCE = 16
"""Pictures that are drawn or read together."""

Scores: TypeAlias = dict[str, float]


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UNet(nn.Module):
    """Reads `[N, classes, H, W]` logits from pictures `[N, 3, H, W]` in [-1, 1]; sides are multiples of 8."""

    def __init__(self, classes: int, widths: Sequence[int] = (16, 32, 64, 64)) -> None:
        super().__init__()
        self.down = nn.ModuleList(ConvBlock(a, b) for a, b in zip((3, *widths), widths, strict=False))
        upward = list(widths)[::-1]
        self.up = nn.ModuleList(ConvBlock(a + b, b) for a, b in pairwise(upward))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """See the class."""
        feature, kept = picture, list[Tensor]()
        for block in self.down:
            feature = block(F.max_pool2d(feature, 2) if kept else feature)
            kept.append(feature)
        kept.pop()
        for block in self.up:
            feature = block(torch.cat([F.interpolate(feature, scale_factor=2.0), kept.pop()], dim=1))
        logits: Tensor = self.head(feature)
        return logits


@dataclass(frozen=True)
class Reader:
    """A trained U-Net.

    Attributes:
        network: the U-Net.
        accuracy: share of right pixels in scenes of its own world that it has not learnt from.
    """

    network: UNet
    accuracy: float

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the class ids `[N, H, W]` int64 of `[N, 3, H, W]` uint8."""
        return torch.cat([self.network(uint8_to_float(part)).argmax(1) for part in torch.split(pictures, AT_ONCE)])


def scenes(first: int, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Draw scenes of the U-Net's world: `[N, 3, H, W]` uint8 and their label maps `[N, H, W]` int64."""
    drawn = [draw_scene(WORLD, first + index, size) for index in range(count)]
    return torch.stack([picture for picture, _ in drawn]), torch.stack([label for _, label in drawn])


def train_reader(size: tuple[int, int], *, steps: int, count: int, seed: int) -> Reader:
    """Train the U-Net on pairs.

    Args:
        size: height and width in pixels.
        steps: how many, of 16 scenes each.
        count: how many scenes to learn from, half of which are mirrored each time.
        seed: decides its weights and the order of the scenes.
    """
    torch.manual_seed(seed)
    pictures, labels = scenes(0, count, size)
    network = UNet(LabelSpace.load("scenes").num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(count, (AT_ONCE,))
        picture, label = uint8_to_float(pictures[chosen]), labels[chosen]
        if step % 2:
            picture, label = picture.flip(-1), label.flip(-1)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(picture.contiguous(memory_format=torch.channels_last)), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return finish(network, size)


def finish(network: UNet, size: tuple[int, int]) -> Reader:
    """Return the U-Net ready to read, and how well it does."""
    network.eval().requires_grad_(False)
    pictures, labels = scenes(HELD_OUT, 64, size)
    return Reader(network, float((Reader(network, 0.0)(pictures) == labels).float().mean()))


def reader_for(size: tuple[int, int], file: Path | None, *, steps: int, count: int, seed: int) -> Reader:
    """Read a U-Net from a file; train it where there is none (see `train_reader`), and keep it there."""
    if file is not None and file.exists():
        network = UNet(LabelSpace.load("scenes").num_classes).to(memory_format=torch.channels_last)
        load_model(network, file)
        return finish(network, size)
    reader = train_reader(size, steps=steps, count=count, seed=seed)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_model(reader.network, str(file))
    return reader


def held_out(config: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Return the first held-out scenes of a run: label maps or drawings `[N, H, W]`, pictures `[N, 3, H, W]` uint8.

    Raises:
        ValueError: the run learnt from something else than drawn scenes, or from those that the U-Net learns from.
    """
    if config.data.layout != "scenes":
        raise ValueError(f"it learnt from layout '{config.data.layout}', but the U-Net reads drawn scenes only")
    if config.data.scenes.seed == WORLD:
        raise ValueError(f"its scenes are of world {WORLD}, which the U-Net learns from; train with another seed")
    world = config.data.scenes.model_copy(update={"val_count": count})
    data = config.data.model_copy(update={"scenes": world})
    dataset = build_dataset(data, "val", LabelSpace.load(data.label_space), config.seed, paired=False)
    batch = collate([dataset[index] for index in range(count)])
    assert batch.image is not None
    return batch.label, float_to_uint8(batch.image)


def draw_all(synthesizer: Synthesizer, labels: Tensor, seed: int) -> Tensor:
    """Draw every label map `[N, H, W]` with noise of its own: `[N, 3, H, W]` uint8."""
    noise = torch.stack([synthesizer.noise(seed, place) for place in range(len(labels))])
    parts = zip(torch.split(labels, AT_ONCE), torch.split(noise, AT_ONCE), strict=True)
    return torch.cat([float_to_uint8(synthesizer.generate(Batch(label=label), z)) for label, z in parts])


# --- scores -----------------------------------------------------------------------------------------------------------


def compare_classes(found: Tensor, wanted: Tensor) -> Scores:
    """Return `ppa`, and `miou` over the classes that are wanted anywhere, of class ids `[N, H, W]`."""
    classes = int(max(found.max(), wanted.max())) + 1
    table = torch.bincount((wanted * classes + found).flatten(), minlength=classes**2).view(classes, classes).double()
    right, there = table.diag(), table.sum(1)
    union = there + table.sum(0) - right
    return {"ppa": float(right.sum() / table.sum()), "miou": float((right / union)[there > 0].mean())}


def compare_lines(found: Tensor, wanted: Tensor) -> Scores:
    """Return `precision`, `recall` and `f1` of lines `[N, H, W]` (1 on a line), with a tolerance of one pixel."""

    def near(lines: Tensor) -> Tensor:
        return F.max_pool2d(lines[:, None].float(), 3, stride=1, padding=1)[:, 0]

    precision = float((found * near(wanted)).sum() / found.sum().clamp(min=1))
    recall = float((wanted * near(found)).sum() / wanted.sum().clamp(min=1))
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(precision + recall, 1e-9)}


def judge_of(config: RunConfig, reader: Reader) -> tuple[str, Callable[[Tensor, Tensor], Scores]]:
    """Return what is compared, in words, and the function that compares pictures with what they were drawn from."""
    if config.data.label_space != "sketch":
        return "classes that the U-Net reads", lambda pictures, wanted: compare_classes(reader(pictures), wanted)
    if config.data.sketch.from_ == "photo":
        sigma = config.data.sketch.sigma

        def edges(pictures: Tensor) -> Tensor:
            return torch.stack([find_edges(picture, sigma) for picture in pictures])

        return f"Canny's edges, sigma {sigma:g}", lambda pictures, wanted: compare_lines(edges(pictures), wanted)

    def lines(pictures: Tensor) -> Tensor:
        return torch.stack([borders(ids) for ids in reader(pictures)])

    return (
        "borders between classes that the U-Net reads",
        lambda pictures, wanted: compare_lines(lines(pictures), wanted),
    )


def agreement(synthesizer: Synthesizer, reader: Reader, *, count: int, seeds: int) -> dict[str, Any]:
    """Return what a run's pictures, the true pictures and pictures of other label maps score.

    Args:
        synthesizer: the run.
        reader: the U-Net.
        count: how many held-out label maps.
        seeds: how many pictures of each.

    Raises:
        ValueError: see `held_out`.
    """
    labels, true = held_out(synthesizer.config, count)
    what, judge = judge_of(synthesizer.config, reader)
    by_seed = [draw_all(synthesizer, labels, seed) for seed in range(seeds)]
    pictures, wanted = torch.cat(by_seed), labels.repeat(seeds, 1, 1)
    return {
        "compared": what,
        "step": synthesizer.step,
        "generated": judge(pictures, wanted),
        "generated_by_seed": [judge(part, labels) for part in by_seed],
        "true": judge(true, labels),
        # Each picture meets the label map of the next scene.
        "shuffled": judge(pictures, wanted.roll(1, 0)),
    }


# --- command line -----------------------------------------------------------------------------------------------------


def add_reader_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides the U-Net."""
    parser.add_argument("--reader-steps", type=int, default=800, help="steps that the U-Net learns for")
    parser.add_argument("--reader-scenes", type=int, default=1600, help="scenes that it learns from")
    parser.add_argument("--reader-seed", type=int, default=0, help="its seed")
    parser.add_argument("--readers", type=Path, help="folder that keeps trained U-Nets for the next time")


class Readers:
    """One U-Net per size, trained when it is first asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.by_size: dict[tuple[int, int], Reader] = {}

    def __call__(self, size: tuple[int, int]) -> Reader:
        """Return the U-Net for pictures of a height and width."""
        if size not in self.by_size:
            args = self.args
            steps, count, seed = args.reader_steps, args.reader_scenes, args.reader_seed
            name = f"unet-{size[0]}x{size[1]}-{steps}-{count}-{seed}.safetensors"
            file = args.readers / name if args.readers else None
            self.by_size[size] = reader = reader_for(size, file, steps=steps, count=count, seed=seed)
            print(f"U-Net at {size[1]}x{size[0]}: {reader.accuracy:.1%} of held-out pixels right", flush=True)
        return self.by_size[size]

    def accuracies(self) -> dict[str, float]:
        """Return the held-out accuracy by size, width x height."""
        return {f"{width}x{height}": reader.accuracy for (height, width), reader in self.by_size.items()}


def main() -> None:
    """Score every run and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or weights")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--count", type=int, default=64, help="held-out label maps")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each")
    add_reader_options(parser)
    args = parser.parse_args()
    readers, results = Readers(args), {}
    for run in args.runs:
        try:
            synthesizer = Synthesizer.load(run, device="cpu")
            scores = agreement(synthesizer, readers(synthesizer.size), count=args.count, seeds=args.seeds)
        except (Lab2PixError, ValueError) as error:
            parser.error(f"{run}: {error}")
        results[run] = scores
        print(f"{run} (step {synthesizer.step}), {scores['compared']}")
        for name in ("true", "generated", "shuffled"):
            print(f"  {name:<10}" + "".join(f"  {key} {value:.3f}" for key, value in scores[name].items()))
    record = {**surroundings(), "held_out": args.count, "seeds": args.seeds, "reader": readers.accuracies()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**record, "runs": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
