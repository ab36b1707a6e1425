"""Time to open large datasets, samples per second, and the share of a training's time that steps wait for data.

    python benchmarks/data.py --out benchmarks/results/data.json

`opening` opens `--pairs` pairs per format as a training does (pairs matched, names and sizes hashed), in a process of
its own; `baseline` does it with one `Path` per file and one object per pair. With `--drop-caches` the operating system
forgets all files before the first time. `reading` measures samples per second on an idle machine. `waiting` times the
steps of a small training; its baseline reads each batch when the step asks for it. `transfer` copies a batch to a GPU.
Methods take turns, so a machine that becomes slower affects all of them alike.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _environment import TrainingSteps, environment, open_dataset, peak_resident, write_json
from PIL import Image

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig, RunConfig
from lab2pix.data import build_dataset
from lab2pix.data.files import IMAGE_SUFFIXES
from lab2pix.data.pairs import Pair
from lab2pix.data.scenes.dataset import write_scenes
from lab2pix.data.shards import write_shards
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training.loader import read_batches, read_in_turn
from lab2pix.training.sampler import StreamSampler

PARTS = ("opening", "reading", "waiting", "transfer")
SOURCES = ("scenes", "files", "camvid", "shards")
"""Procedural scenes; the same as files of 480x360; photos, if they are available; these in tar shards."""
READERS = ("baseline", "thread", "1 worker", "2 workers")
LINKS = 30_000  # of one file; ext4 allows 65,000

# --- opening ------------------------------------------------------------------------------------------------------


def _folder(i: int) -> tuple[str, ...]:
    return f"images/train/{i:012}.jpg", f"labels/train/{i:012}.png"


def _ade20k(i: int) -> tuple[str, ...]:
    name = f"training/ADE_train_{i:08}"
    return f"ADEChallengeData2016/images/{name}.jpg", f"ADEChallengeData2016/annotations/{name}.png"


def _coco_stuff(i: int) -> tuple[str, ...]:
    return f"train_img/{i:012}.jpg", f"train_label/{i:012}.png", f"train_inst/{i:012}.png"


def _cityscapes(i: int) -> tuple[str, ...]:
    name = f"train/city{i % 20:02}/city{i % 20:02}_{i:06}_000019"
    kinds = (f"gtFine/{name}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds", "color"))
    return f"leftImg8bit/{name}_leftImg8bit.png", *kinds


SETS: dict[str, tuple[Callable[[int], tuple[str, ...]], str, dict[str, Any]]] = {
    "folder": (_folder, "folder", {}),
    "folder, unpaired": (_folder, "folder", {"unpaired": True}),
    "two folders, unpaired": (_folder, "folder", {"sides": True, "unpaired": True}),
    "ade20k": (_ade20k, "ade20k", {}),
    "coco-stuff, instances": (_coco_stuff, "coco-stuff", {"instance_edges": True}),
    "cityscapes, instances": (_cityscapes, "cityscapes", {"instance_edges": True}),
}
"""Rows of the table: the files of a pair, the format, and further settings."""
FOLDERS = {
    "folder": ("images/train", "labels/train", None),
    "ade20k": ("ADEChallengeData2016/images/training", "ADEChallengeData2016/annotations/training", None),
    "coco-stuff": ("train_img", "train_label", "train_inst"),
    "cityscapes": ("leftImg8bit/train", "gtFine/train", "gtFine/train"),
}


def make_set(row: str, root: Path, count: int) -> int:
    """Create the files of a row as hard links to small images, since opening reads no file; return their number."""
    made = 0
    source = root.parent / f"{root.name}-source.png"
    for index in range(count):
        for name in SETS[row][0](index):
            if made % LINKS == 0:
                source.unlink(missing_ok=True)
                root.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16)).save(source)
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
            made += 1
    source.unlink()
    return made


def open_set(row: str, root: Path) -> tuple[Any, str]:
    """Open a set as a training does: match the pairs, and hash names and sizes."""
    _, format, more = SETS[row]
    given = {name: value for name, value in more.items() if name not in ("sides", "unpaired")}
    roots = {side: {"root": str(root / side)} for side in ("labels", "images")}
    given |= roots if "sides" in more else {"root": str(root)}
    config = DataConfig(format=format, val_split=None, size=(64, 64), label_space="cityscapes", **given)
    made = build_dataset(config, "train", LabelSpace.load("cityscapes"), 0, paired="unpaired" not in more)
    return made, made.file_hash()


def open_baseline(row: str, root: Path) -> tuple[Any, str]:
    """Open a set with a `Path` per file, dictionaries of them, and an object per pair."""
    format = SETS[row][1]
    endings = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds") if format == "cityscapes" else ("", "", "")
    photos, labels, instances = (
        {} if part is None else _paths(root / part, ending)
        for part, ending in zip(FOLDERS[format], endings, strict=True)
    )
    pairs = [Pair(name, labels[name], photos[name], instances.get(name)) for name in sorted(labels)]
    digest = hashlib.sha256()
    for pair in pairs:
        for path in dict.fromkeys((pair.label, pair.image, pair.instance)):
            if path is not None:
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return pairs, digest.hexdigest()


def _paths(folder: Path, ending: str) -> dict[str, Path]:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(parent) / name
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending):
                found[stem.removesuffix(ending)] = path
    return found


OPENERS = {"baseline": open_baseline, "lab2pix": open_set}


def _resident() -> tuple[float, float]:
    """Return the resident memory of this process in MiB: anonymous, and in all."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        anonymous, total = (int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))
        return anonymous, total
    except (FileNotFoundError, KeyError):  # a system without /proc
        return peak_resident(), peak_resident()


def measure_opening(row: str, method: str, root: Path, repeats: int, *, drop: bool) -> dict[str, Any]:
    """Open a set several times in this process, which has opened none before."""
    import lab2pix.training  # noqa: F401 - loaded before a training opens its data

    torch.set_num_threads(1)
    gc.collect()
    before, total = _resident()
    if drop:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    times = []
    found: dict[str, Any] = {}
    for turn in range(1 + repeats):
        clock, cpu = time.perf_counter(), time.process_time()
        made = OPENERS[method](row, root)
        times.append((time.perf_counter() - clock, time.process_time() - cpu))
        if turn == 0:
            found = {"pairs": len(made[0]), "hash": made[1], "first_s": times[0][0], "first_cpu_s": times[0][1]}
            found |= {"held_mib": _resident()[0] - before, "peak_mib": peak_resident() - total, "before_mib": total}
        del made
    clocks, cpus = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return found | {"again_s": clocks, "again_cpu_s": cpus}


def opening(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a record per set and method, each measured in a process of its own."""
    made: dict[Any, tuple[Path, int]] = {}
    for row in args.sets:
        files = SETS[row][0]
        if files not in made:
            root = folder / f"set{len(made)}"
            made[files] = root, make_set(row, root, args.pairs)
        root, count = made[files]
        for method in OPENERS:
            command = [sys.executable, __file__, "--repeats", str(args.repeats), "--opened", row, method, str(root)]
            command += ["--drop-caches"] if args.drop_caches else []
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            yield {"set": row, "method": method, "files": count} | json.loads(output.splitlines()[-1])


# --- reading and waiting ------------------------------------------------------------------------------------------


def camvid_folder() -> Path | None:
    """Return the folder of CamVid in `LAB2PIX_DATA`, or None."""
    folder = Path(os.environ.get("LAB2PIX_DATA") or Path(__file__).parents[2] / "shared" / "data") / "camvid"
    return folder if folder.is_dir() else None


def sources(names: Sequence[str], folder: Path, camvid: Path | None, count: int) -> dict[str, list[str]]:
    """Return the settings of each source that is available, and write the files that it needs into the folder."""
    found = {"scenes": ["data.format=scenes", "data.label_space=scenes", f"data.scenes.train_count={count}"]}
    if "files" in names:
        write_scenes(folder / "scenes", count, (360, 480), 0)
        found["files"] = ["data.format=folder", f"data.root={folder / 'scenes'}", "data.train_split=null"]
        found["files"] += ["data.label_space=scenes"]
    if camvid is not None:
        found["camvid"] = ["data.format=folder", f"data.root={camvid}", "data.label_space=camvid"]
    if camvid is not None and "shards" in names:
        write_shards(camvid, "train", folder / "shards")
        found["shards"] = ["data.format=shards", f"data.root={folder / 'shards'}", "data.label_space=camvid"]
    return {name: [*found[name], "data.val_split=null"] for name in names if name in found}


def configuration(source: list[str], size: Sequence[int], batch: int, width: int) -> RunConfig:
    """Return a small training of V2 on a source."""
    parts = ("generator.width", "discriminator.width", "generator.global_encoder.width")
    settings = [*source, f"data.size=[{size[0]},{size[1]}]", f"train.batch_size={batch}", "train.channels_last=true"]
    settings += [*(f"{part}={width}" for part in parts), "data.instance_edges=false", "loss.cycle=0"]
    return load_config("v2-small", settings)


def batches(config: RunConfig, reader: str, steps: int) -> Iterator[list[Batch]]:
    """Open the set, and return a reader of that many batches."""
    dataset = open_dataset(config)
    sampler = StreamSampler(len(dataset), seed=0, batch_size=config.train.batch_size, steps=range(steps))
    if reader == "baseline":
        return read_in_turn(dataset, sampler, 0)
    return read_batches(dataset, sampler, 0 if reader == "thread" else int(reader[0]), pin=torch.cuda.is_available())


def reading(args: argparse.Namespace, found: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """Yield samples per second of each source and size, medians over stretches of four batches, and processor time."""
    for source, settings in found.items():
        for side in args.sizes:
            config = configuration(settings, (side, side), args.batch, 8)
            record: dict[str, Any] = {"source": source, "size": side}
            for name in (reader for reader in READERS if reader != "thread"):
                reader = batches(config, name, 4 * args.repeats + 1)
                next(reader)
                rates, cpu = [], time.process_time()
                for _ in range(args.repeats):
                    start = time.perf_counter()
                    for _ in range(4):
                        next(reader)
                    rates.append(4 * args.batch / (time.perf_counter() - start))
                reader.close()  # type: ignore[attr-defined]
                record[name] = statistics.median(rates)
                if name == "baseline":  # reads in this process
                    record["cpu_ms"] = 1000 * (time.process_time() - cpu) / (4 * args.batch * args.repeats)
            yield record


def stretch(training: TrainingSteps, reader_name: str, epochs: int, steps: int) -> list[list[tuple[float, ...]]]:
    """Make steps on a newly opened set.

    Returns:
        For each epoch and step: seconds waited, seconds in all, processor seconds. The first step is left out, since
        it waits for the reader to start.
    """
    reader = batches(training.config, reader_name, epochs * steps)
    found: list[list[tuple[float, ...]]] = []
    for _ in range(epochs):
        taken: list[tuple[float, ...]] = []
        for _ in range(steps):
            start, cpu = time.perf_counter(), time.process_time()
            (part,) = next(reader)
            came = time.perf_counter()
            training(part)
            taken.append((came - start, time.perf_counter() - start, time.process_time() - cpu))
        found.append(taken[1:])
    reader.close()  # type: ignore[attr-defined]
    return found


def waiting(args: argparse.Namespace, found: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """Yield a record per source, epoch and reader."""
    for source, settings in found.items():
        training = TrainingSteps(configuration(settings, args.size, args.batch, args.width))
        stretch(training, "baseline", 1, 2)
        taken: dict[tuple[int, str], list[tuple[float, ...]]] = {}
        epochs = 2 if source == "scenes" else 1  # scenes are drawn in the first epoch and cached
        for _ in range(args.rounds):
            for reader in READERS:
                for epoch, part in enumerate(stretch(training, reader, epochs, args.steps), start=1):
                    taken.setdefault((epoch, reader), []).extend(part)
        for (epoch, reader), steps in sorted(taken.items(), key=lambda item: item[0][0]):
            waited, clock, cpu = zip(*steps, strict=True)
            record = {"source": source, "epoch": epoch, "reader": reader, "steps": len(steps)}
            record |= {"waiting": sum(waited) / sum(clock), "waited_s": sum(waited) / len(steps)}
            yield record | {"step_s": statistics.median(clock), "step_cpu_s": statistics.median(cpu)}


def transfer(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield milliseconds until the copy call returns and until the batch is on the GPU, from each kind of memory."""
    pageable = Batch(torch.zeros(args.batch, *args.size, dtype=torch.int64), torch.zeros(args.batch, 3, *args.size))
    for memory, made in (("pageable", pageable), ("pinned", pageable.pin_memory())):
        times = []
        for _ in range(args.repeats + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            made.to("cuda")
            returned = time.perf_counter()
            torch.cuda.synchronize()
            times.append((returned - start, time.perf_counter() - start))
        returned, arrived = (1000 * statistics.median(column) for column in zip(*times[1:], strict=True))
        yield {"device": torch.cuda.get_device_name(), "memory": memory, "call_ms": returned, "copy_ms": arrived}


# --- command line -------------------------------------------------------------------------------------------------


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=120_000, help="in each large set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--drop-caches", action="store_true", help="before a first time; for root on Linux")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--camvid", type=Path, default=camvid_folder(), help="folder of CamVid")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="to read at, height and width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=16, help="of the training's networks")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="of its images")
    parser.add_argument("--steps", type=int, default=8, help="per epoch of the training")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2, help="stretches of `--steps` steps per reader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="for the large sets, which are removed; default: a temporary one")
    parser.add_argument("--out", type=Path, help="JSON to write; parts that are not measured now stay in it")
    parser.add_argument("--opened", nargs=3, metavar=("SET", "METHOD", "ROOT"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure the parts that are asked for, and print each record."""
    parts: dict[str, Iterator[dict[str, Any]]] = {}
    if "opening" in args.parts:
        parts["opening"] = opening(args, folder)
    if {"reading", "waiting"} & set(args.parts):
        if "camvid" in args.sources and args.camvid is None:
            print("CamVid is not available, so its rows are skipped; set LAB2PIX_DATA or --camvid.")
        available = sources(args.sources, folder, args.camvid, args.batch * args.steps)
        parts |= {"reading": reading(args, available), "waiting": waiting(args, available)}
    if "transfer" in args.parts and torch.cuda.is_available():
        parts["transfer"] = transfer(args)
    elif "transfer" in args.parts:
        print("CUDA is not available, so the transfer to a GPU is skipped.")
    found: dict[str, list[dict[str, Any]]] = {}
    for part in (part for part in parts if part in args.parts):
        found[part] = []
        for record in parts[part]:
            found[part].append(record)
            shown = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in record.values())
            print(part, *(f"{key}={value}" for key, value in zip(record, shown, strict=True)), flush=True)
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write a JSON if asked to."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    if args.opened:
        row, method, root = args.opened
        print(json.dumps(measure_opening(row, method, Path(root), args.repeats, drop=args.drop_caches)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args, Path(folder))
    if args.out:
        record = json.loads(args.out.read_text()) if args.out.exists() else {}
        record |= {part: environment() | {"rows": rows} for part, rows in found.items()}
        write_json(args.out, record)


if __name__ == "__main__":
    main()
