"""Pictures per second of `lab2pix.evaluate_folders`, against a plain loop over the same files with torchmetrics.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --out benchmarks/results/evaluation.json

Both look through the same EfficientNet-Lite0, in batches of one size, on one thread, and both find the Frechet
distance, PSNR and SSIM, which are checked to agree; `lab2pix.evaluate_folders` computes the kernel distance as well and
its report is written. The plain loop opens each file with Pillow when its batch comes up and calls torchmetrics, as its
documentation shows. Files are drawn landscapes and the same with noise, made anew in a temporary folder.

The ways take turns, so that a drifting machine slows both alike. Given are medians of two clocks: the wall's, and the
processor's for this process, which other programs' turns do not count in (but all of this process' reading threads do).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from _environment import environment, write_json
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

import lab2pix
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.transforms import uint8_to_float
from lab2pix.methods.features import load_backbone

FEATURES = "efficientnet-lite0"
DIMENSION = 320
SCORES = ("frechet_efficientnet_lite0", "psnr", "ssim")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=192, help="pictures, each with its photo")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


def write_files(root: Path, count: int, size: tuple[int, int]) -> None:
    """Draw landscapes, and the same with noise, as PNG files."""
    for side in ("real", "generated"):
        (root / side).mkdir()
    for index in range(count):
        photo = draw_scene(0, index, size)[0].permute(1, 2, 0).numpy()
        noise = np.random.default_rng(index).normal(0, 10, photo.shape)
        Image.fromarray(photo).save(root / "real" / f"{index:05d}.png")
        Image.fromarray((photo + noise).clip(0, 255).astype(np.uint8)).save(root / "generated" / f"{index:05d}.png")


class Features(nn.Module):
    """The evaluator's feature network, as torchmetrics takes one: called with the whole batch."""

    num_features = DIMENSION

    def __init__(self) -> None:
        super().__init__()
        self.network = load_backbone(FEATURES)

    @torch.inference_mode()
    def forward(self, pictures: Tensor) -> Tensor:
        """Return `[N, 320]` of `[N, 3, H, W]` uint8."""
        image = self.network.normalize(uint8_to_float(pictures))
        return self.network(image, levels=3).discriminator[-1].mean((2, 3))


def plain(root: Path, batch: int) -> dict[str, float]:
    """Judge with torchmetrics, batch by batch."""

    def read(side: str, names: list[str]) -> Tensor:
        pictures = [np.asarray(Image.open(root / side / name).convert("RGB")) for name in names]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    distance = FrechetInceptionDistance(feature=Features())
    found: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
    names = sorted(path.name for path in (root / "generated").iterdir())
    for start in range(0, len(names), batch):
        now = names[start : start + batch]
        generated, real = read("generated", now), read("real", now)
        distance.update(real, real=True)
        distance.update(generated, real=False)
        one, other = generated.float(), real.float()
        found["psnr"].append(peak_signal_noise_ratio(one, other, 255.0, reduction="none", dim=(1, 2, 3)))
        found["ssim"].append(structural_similarity_index_measure(one, other, data_range=255.0, reduction="none"))
    means = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    return {SCORES[0]: float(distance.compute()), **means}


def product(root: Path, batch: int) -> dict[str, float]:
    """Judge with `lab2pix.evaluate_folders`, which writes its report and page, too."""
    protocol = lab2pix.Protocol(features=[FEATURES], batch_size=batch)
    report = lab2pix.evaluate_folders(root / "generated", root / "real", protocol, device="cpu")
    report.save(root / "report.json", overwrite=True)
    return {name: report.scores[name].mean for name in SCORES}


def timed(work: Callable[[Path, int], dict[str, float]], root: Path, batch: int) -> tuple[float, float]:
    """Return the seconds of the wall's clock and of the processor's."""
    wall, processor_time = time.perf_counter(), time.process_time()
    work(root, batch)
    return time.perf_counter() - wall, time.process_time() - processor_time


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per way, the last one to be compared with.

    Raises:
        SystemExit: the ways do not agree.
    """
    ways = {"lab2pix.evaluate_folders": product, "torchmetrics, plain loop": plain}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, args.count, tuple(args.size))
        # The first round warms up.
        scores = {name: work(root, args.batch) for name, work in ways.items()}
        ours, theirs = scores.values()
        for score in SCORES:
            # torchmetrics' SSIM counts borders as well, which it mirrors; scikit-image's and ours do not.
            if abs(ours[score] - theirs[score]) > (1e-2 if score == "ssim" else 1e-3) * abs(theirs[score]):
                sys.exit(f"the two ways do not agree on {score}: {ours[score]} and {theirs[score]}")
        for _ in range(args.repeats):
            for name, work in ways.items():
                times[name].append(timed(work, root, args.batch))
    rows = []
    for name in ways:
        wall, processor_time = (statistics.median(column) for column in zip(*times[name], strict=True))
        row = {"way": name, "wall_s": wall, "processor_s": processor_time, "scores": scores[name]}
        rows.append({**row, "per_second": args.count / wall, "per_processor_second": args.count / processor_time})
    for row in rows:
        row["ratio"] = row["per_second"] / rows[-1]["per_second"]
        row["processor_ratio"] = row["per_processor_second"] / rows[-1]["per_processor_second"]
    return rows


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the table, and write it with machine, versions and command where asked."""
    print(f"{args.count} pictures of {args.size[0]}x{args.size[1]} with their photos, median of {args.repeats}")
    print(f"{'':<26}{'wall':>24}{'processor':>25}")
    print(f"{'way':<26}{'s':>8}{'1/s':>8}{'ratio':>8}{'s':>9}{'1/s':>8}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['way']:<26}{row['wall_s']:>8.2f}{row['per_second']:>8.1f}{row['ratio']:>8.2f}"
            f"{row['processor_s']:>9.2f}{row['per_processor_second']:>8.1f}{row['processor_ratio']:>8.2f}"
        )
    if args.out:
        record = environment() | {
            "images": {"count": args.count, "size": list(args.size), "batch": args.batch, "repeats": args.repeats},
            "rows": rows,
        }
        record["versions"]["torchmetrics"] = torchmetrics.__version__
        write_json(args.out, record)


def main() -> None:
    """Measure and print."""
    args = arguments()
    report(measure(args), args)


if __name__ == "__main__":
    main()
