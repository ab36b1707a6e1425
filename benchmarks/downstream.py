"""Segmenters trained on few real pairs, with and without generated ones: does synthetic training data help?

python benchmarks/downstream.py train CAMVID --runs runs/downstream --jobs 2
python benchmarks/downstream.py score --runs runs/downstream --out benchmarks/results

CAMVID is a dataset of format `folder` with the splits `train` and `val`. For each number of real pairs, a segmenter is
trained on them alone, with classic augmentation, and with generated pairs (`lab2pix augment`) from a Lab2Pix-V2 that
was trained on the same pairs; the segmenter that filters them saw only those, too. Without a labeled photo, Lab2Pix-V1
is trained on the label maps of one half of the set and the photos of the other: a segmenter is trained on its pairs
alone, and its own segmentation S3 is scored. All are scored by mean IoU on the held-out pairs, over the seeds of the
segmenter.

Each job is a process with one thread, and leaves a file that says it has ended; the same command continues. `score`
writes `downstream.json`, `downstream.md` and `downstream.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _comparison import slug
from _environment import environment, write_json
from _jobs import ENDED, Job, run_jobs
from _runs import cell, summary

from lab2pix.config.schema import DataConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.formats import find_pairs
from lab2pix.data.pairs import Pair
from lab2pix.errors import Lab2PixError
from lab2pix.evaluation.metrics.segmentation import ScoredClasses, SegmentationScores
from lab2pix.evaluation.segmenters import SEGMENTER_FILE
from lab2pix.inference.augment import CLASSES_FILE
from lab2pix.labels.space import LabelSpace
from lab2pix.training import latest_checkpoint, read_run_config
from lab2pix.training.checkpoint import load_checkpoint
from lab2pix.training.segmenter import SegmenterSettings, held_out_batches, train_segmenter
from lab2pix.training.state import build_training
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.files import write_atomically
from lab2pix.utils.seeding import stable_seed

_FILTER_SEED = 1000
_JITTER = 0.3


@dataclass(frozen=True)
class Arm:
    """How a segmenter is trained.

    Attributes:
        classic: whether with random crops, flips and color jitter.
        synthetic: folder of the generated pairs, among `synthetic-N`, `unfiltered-N`; None: real pairs alone.
        ratio: generated pairs per real one in training.
        weight: weight of a generated pair in the loss.
    """

    classic: bool = True
    synthetic: str | None = None
    ratio: float = 1.0
    weight: float = 1.0


ARMS = {
    "alone": Arm(classic=False),
    "classic": Arm(),
    "generated": Arm(synthetic="synthetic"),
    "generated 3:1": Arm(synthetic="synthetic", ratio=3.0),
    "generated, weight 0.5": Arm(synthetic="synthetic", weight=0.5),
    "unfiltered": Arm(synthetic="unfiltered"),
}
UNLABELED, S3 = "V1's pairs alone", "S3 of V1"
"""Rows without a labeled photo."""


# --- data ---------------------------------------------------------------------------------------------------------


def link_pairs(pairs: Iterable[tuple[str, Pair]], folder: Path, split: str) -> None:
    """Link pairs, with their new names, into a dataset of format `folder`."""
    for name, pair in pairs:
        for part, file in (("images", pair.image), ("labels", pair.label)):
            assert file is not None
            link = folder / part / split / f"{name}{file.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())


def choose(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return pairs in a random order that is the same for all counts, so that fewer are part of more."""
    return sorted(pairs, key=lambda pair: stable_seed("downstream", pair.name))[:count]


def mix(real: Sequence[Pair], synthetic: Sequence[Pair], ratio: float) -> list[tuple[str, Pair]]:
    """Return real and generated pairs with names; the fewer ones are repeated, up to the ratio."""
    times = max(1, round(len(synthetic) / (ratio * len(real)))) if synthetic else 1
    repeated = [(f"real-{number}/{pair.name}", pair) for number in range(times) for pair in real]
    return repeated + [(f"synthetic/{pair.name}", pair) for pair in synthetic]


def prepare(args: argparse.Namespace) -> None:
    """Link the real pairs of each count, and V1's unpaired halves."""
    train, held_out = (find_pairs("folder", args.camvid, split) for split in ("train", "val"))
    for count in args.counts:
        chosen = choose(train, count)
        if len(chosen) < count:
            raise ValueError(f"{args.camvid} has {len(chosen)} pairs, but --counts asks for {count}")
        _link_set(args.runs / f"real-{count}", chosen, held_out)
    order = choose(train, len(train))
    labels, photos = order[: len(order) // 2], order[len(order) // 2 :]
    link_pairs(((pair.name, pair) for pair in labels), args.runs / "unpaired" / "a", "train")
    link_pairs(((pair.name, pair) for pair in photos), args.runs / "unpaired" / "b", "train")


def _link_set(folder: Path, train: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    for split, pairs in (("train", train), ("val", held_out)):
        link_pairs(((pair.name, pair) for pair in pairs), folder, split)


# --- jobs ---------------------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace) -> list[Job]:
    """Return all jobs, each after those it needs."""
    runs = args.runs
    common = ["data.label_space=" + args.label_space, f"data.size=[{args.size[0]},{args.size[1]}]"]
    common += ["data.instance_edges=false", "data.workers=0", "data.format=folder", "checkpoint.keep=1"]
    common += [f"train.batch_size={args.batch_size}", "monitor.tensorboard=false"]
    jobs = []
    for count in args.counts:
        real, samples = runs / f"real-{count}", max(2, round(args.synthetic / count))
        network = f"filter-{count}"
        jobs.append(segmenter_job(args, network, count, Arm(), _FILTER_SEED))
        settings = [*common, f"data.root={real}", f"train.steps={args.gan_steps}", *args.gan_settings]
        jobs.append(_train(f"v2-{count}", "v2-small", settings))
        filtering = ["--segmenter", str(runs / network), "--least-agreement", args.least_agreement]
        for name, more in (("synthetic", filtering), ("unfiltered", [])):
            labels = ["--split", "train", "--samples", str(samples), *more]
            needs = (f"v2-{count}", network) if more else (f"v2-{count}",)
            jobs.append(_augment(args, f"{name}-{count}", f"v2-{count}", real, labels, needs))
        jobs += [
            segmenter_job(args, f"{segmenter_name(count, name)}-{seed}", count, arm, seed)
            for name, arm in ARMS.items()
            for seed in range(args.seeds)
        ]
    halves = [f"data.labels.root={runs / 'unpaired/a/labels'}", f"data.images.root={runs / 'unpaired/b/images'}"]
    settings = [*common, *halves, "data.val_split=null", f"train.steps={args.gan_steps}", *args.v1_settings]
    jobs.append(_train("v1", "v1-small", settings))
    samples = max(2, round(args.synthetic / len(find_pairs("folder", runs / "unpaired/a", "train"))))
    labels = ["--split", "train", "--samples", str(samples)]
    jobs.append(_augment(args, "synthetic-v1", "v1", runs / "unpaired/a", labels, ("v1",)))
    alone = Arm(synthetic="synthetic")
    jobs += [segmenter_job(args, f"segmenter-v1-{seed}", None, alone, seed) for seed in range(args.seeds)]
    jobs.append(Job("s3", (__file__, "s3", str(runs / "v1"), str(runs / f"real-{args.counts[0]}"), "FOLDER"), ("v1",)))
    return jobs


def _train(name: str, preset: str, settings: Sequence[str]) -> Job:
    words = ["train", preset, *settings, f"name={name}", "--out", "FOLDER", "--device", "cpu"]
    return Job(name, ("-m", "lab2pix", *words))


def _augment(
    args: argparse.Namespace, name: str, run: str, labels: Path, more: Sequence[str], needs: tuple[str, ...]
) -> Job:
    words = ["augment", str(args.runs / run), str(labels), "--out", "FOLDER", "--device", "cpu", *more]
    return Job(name, ("-m", "lab2pix", *words), needs)


def segmenter_job(args: argparse.Namespace, name: str, count: int | None, arm: Arm, seed: int) -> Job:
    """Return the training of a segmenter; without a count on V1's pairs alone."""
    synthetic = None if arm.synthetic is None else f"{arm.synthetic}-{'v1' if count is None else count}"
    given = {
        "real": None if count is None else str(args.runs / f"real-{count}"),
        "held_out": str(args.runs / f"real-{args.counts[0] if count is None else count}"),
        "synthetic": None if synthetic is None else str(args.runs / synthetic),
        "label_space": args.label_space,
        "size": args.size,
        "classic": arm.classic,
        "ratio": arm.ratio,
        "weight": arm.weight,
        "settings": {"steps": args.steps, "batch_size": args.segmenter_batch, "seed": seed, "encoder": args.encoder},
    }
    return Job(name, (__file__, "segment", json.dumps(given), "FOLDER"), () if synthetic is None else (synthetic,))


def segment(given: dict[str, Any], out: Path) -> None:
    """Train and score one segmenter: link its pairs, and train on them."""
    real = find_pairs("folder", given["real"], "train") if given["real"] else ()
    synthetic = find_pairs("folder", given["synthetic"], "train") if given["synthetic"] else ()
    data = out.with_name(f"{out.name}-data")
    link_pairs(mix(real, synthetic, given["ratio"]) if real else [(p.name, p) for p in synthetic], data, "train")
    link_pairs(((p.name, p) for p in find_pairs("folder", given["held_out"], "val")), data, "val")
    size = tuple(given["size"])
    classic = {"resize": (round(size[0] * 1.25), round(size[1] * 1.25))} if given["classic"] else {"flip": False}
    # That of the generated pairs has unknown.
    space = str(Path(given["synthetic"]) / CLASSES_FILE) if synthetic else given["label_space"]
    values = {"format": "folder", "root": str(data), "label_space": space, "size": size, **classic}
    config = DataConfig.model_validate(values)
    jitter, weights = _JITTER if given["classic"] else 0.0, (("synthetic", given["weight"]),)
    settings = SegmenterSettings(**given["settings"], color_jitter=jitter, weights=weights)
    print(train_segmenter(config, out, settings, device="cpu", overwrite=True), flush=True)


@torch.inference_mode()
def score_s3(run: Path, held_out: Path, out: Path) -> None:
    """Score the segmentation S3 of a Lab2Pix-V1 on real photos, and write `segmenter.json`."""
    config = read_run_config(run)
    space = LabelSpace.load(config.data.label_space)
    state = build_training(config, space, DistributedContext(0, 1, torch.device("cpu")))
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    load_checkpoint(checkpoint, state, 0)
    network = state.method.networks["segmenters"].eval()[0]
    values = {
        "format": "folder",
        "root": str(held_out),
        "label_space": config.data.label_space,
        "size": config.data.size,
    }
    data = DataConfig.model_validate(values)
    scores = SegmentationScores(ScoredClasses.of(space))
    for batch in held_out_batches(build_dataset(data, "val", space, 0, paired=True), 16):
        scores.update(network(batch.image).argmax(1), batch.label)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SEGMENTER_FILE, {"held_out": scores.compute()})


# --- scores -------------------------------------------------------------------------------------------------------


def read_scores(args: argparse.Namespace) -> dict[str, dict[str, dict[int, dict[str, float]]]]:
    """Return the scores of the jobs that have ended, by number of real pairs, row and seed."""
    found: dict[str, dict[str, dict[int, dict[str, float]]]] = {}

    def read(key: str, row: str, seed: int, name: str) -> None:
        file = args.runs / name / SEGMENTER_FILE
        if (args.runs / name / ENDED).exists():
            held_out = json.loads(file.read_text(encoding="utf-8"))["held_out"]
            scores = {score: float(held_out[score]) for score in ("ciou", "ppa")}
            found.setdefault(key, {}).setdefault(row, {})[seed] = scores

    counts = sorted(int(path.name.removeprefix("real-")) for path in args.runs.glob("real-*"))
    for count in counts:
        for arm in ARMS:
            prefix = segmenter_name(count, arm)
            for seed in _seeds(args.runs, prefix):
                read(str(count), arm, seed, f"{prefix}-{seed}")
    for seed in _seeds(args.runs, "segmenter-v1"):
        read("0", UNLABELED, seed, f"segmenter-v1-{seed}")
    read("0", S3, 0, "s3")
    return found


def segmenter_name(count: int, arm: str) -> str:
    """Return the name of a row's jobs, without the seed."""
    return f"segmenter-{count}-{slug(arm)}"


def _seeds(runs: Path, prefix: str) -> list[int]:
    """Return the seeds of the folders `PREFIX-SEED`."""
    ends = (path.name.removeprefix(f"{prefix}-") for path in runs.glob(f"{prefix}-*"))
    return sorted(int(end) for end in ends if end.isdigit())


def table_of(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the mean IoU as Markdown: a line per number of real pairs, and one of what saw no labeled photo."""
    lines = ["| real pairs | " + " | ".join(ARMS) + " |", "|---:|" + "---:|" * len(ARMS)]
    for count, row in rows.items():
        if count != "0":
            cells = [cell(row[arm]["ciou"]) if arm in row else "–" for arm in ARMS]
            lines.append(f"| {count} | " + " | ".join(cells) + " |")
    without = [f"{name}: {cell(row['ciou'])}" for name, row in rows.get("0", {}).items()]
    return "\n".join(lines + (["", "Without a labeled photo: " + "; ".join(without)] if without else []))


def draw(rows: dict[str, dict[str, dict[str, Any]]], file: Path) -> None:
    """Plot the mean IoU over the number of real pairs, with the standard deviation over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    counts = [int(count) for count in rows if count != "0"]
    for arm in ARMS:
        known = [count for count in counts if arm in rows[str(count)]]
        values = [rows[str(count)][arm]["ciou"] for count in known]
        means, spread = [value["mean"] for value in values], [value["std"] or 0 for value in values]
        axes.errorbar(known, means, spread, marker="o", capsize=3, label=arm)
    for name, row in rows.get("0", {}).items():
        axes.axhline(row["ciou"]["mean"], linestyle="--", linewidth=1, color="gray")
        axes.annotate(name, (1, row["ciou"]["mean"]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xscale="log", xlabel="real pairs", ylabel="mean IoU on held-out pairs")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(file, dpi=150)


def score(args: argparse.Namespace) -> int:
    """Write JSON, table and plot of the jobs that have ended."""
    found = read_scores(args)
    if not found:
        raise ValueError(f"no job in {args.runs} has ended; run the verb `train` first")
    rows = {count: summary(by_row) for count, by_row in found.items()}
    kept = {name: _kept(args.runs / name) for name in _synthetic_sets(args.runs)}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "downstream.json", {**environment(), "rows": rows, "runs": found, "synthetic": kept})
    text = table_of(rows)
    write_atomically(args.out / "downstream.md", text + "\n")
    draw(rows, args.out / "downstream.png")
    print(text, flush=True)
    return 0


def _synthetic_sets(runs: Path) -> list[str]:
    return sorted(file.parent.name for file in runs.glob("*/manifest.jsonl"))


def _kept(folder: Path) -> dict[str, float]:
    """Return how many images a synthetic set has, how many were kept, and the mean agreement."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    agreement = [line["agreement"] for line in lines if line["agreement"] is not None]
    found = {"images": len(lines), "kept": sum(line["kept"] for line in lines)}
    return found | ({"agreement": round(fmean(agreement), 4)} if agreement else {})


# --- command line -------------------------------------------------------------------------------------------------


def _numbers(separator: str) -> Any:
    return lambda text: [int(part) for part in text.split(separator)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="run or resume all jobs that have not ended")
    training.add_argument("camvid", type=Path, metavar="CAMVID", help="dataset of format folder")
    training.add_argument("--jobs", type=int, default=1, help="jobs at a time, with one thread each")
    training.add_argument("--label-space", default="camvid", help="label space of the dataset")
    training.add_argument("--size", type=_numbers("x"), default=[96, 128], metavar="HxW", help="of all networks")
    training.add_argument("--counts", type=_numbers(","), default=[25, 50, 100, 367], help="numbers of real pairs")
    training.add_argument("--seeds", type=int, default=3, help="segmenters of each row")
    training.add_argument("--synthetic", type=int, default=1000, help="generated images of each set, about")
    training.add_argument("--least-agreement", default="0.5", help="of generated images, for `lab2pix augment`")
    training.add_argument("--steps", type=int, default=450, help="of a segmenter, some 5 minutes on one core")
    training.add_argument("--segmenter-batch", type=int, default=8, help="images per step of a segmenter")
    training.add_argument("--encoder", default="resnet18", help="of the segmenters")
    training.add_argument("--gan-steps", type=int, default=1600, help="of V2 and V1, some 30 minutes on one core")
    training.add_argument("--batch-size", type=int, default=4, help="pairs per step of V2 and V1")
    training.add_argument("--gan-settings", nargs="*", default=[], metavar="KEY=VALUE", help="more settings of V2")
    training.add_argument("--v1-settings", nargs="*", default=[], metavar="KEY=VALUE", help="more settings of V1")
    scoring = verbs.add_parser("score", help="write the table and the plot of what has ended")
    scoring.add_argument("--out", type=Path, required=True, help="folder of table and plot")
    for verb in (training, scoring):
        verb.add_argument("--runs", type=Path, required=True, help="folder of all jobs")
    one = verbs.add_parser("segment", help="one segmenter, as `train` starts it")
    one.add_argument("given", type=json.loads)
    one.add_argument("out", type=Path)
    own = verbs.add_parser("s3", help="S3 of V1, as `train` starts it")
    for name in ("run", "held_out", "out"):
        own.add_argument(name, type=Path)
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Run a verb."""
    args = parser().parse_args(given)
    try:
        if args.verb == "score":
            return score(args)
        if args.verb == "segment":
            segment(args.given, args.out)
        elif args.verb == "s3":
            score_s3(args.run, args.held_out, args.out)
        else:
            prepare(args)
            return 1 if run_jobs(args.runs, plan(args), args.jobs) else 0
    except (Lab2PixError, ValueError) as error:
        parser().error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
