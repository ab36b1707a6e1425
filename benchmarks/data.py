"""Opening large sets, reading samples, and waiting for them in training: the plain way beside the present one.

    python benchmarks/data.py --out benchmarks/results/data.json

Opening: a set of `--pairs` pairs in each layout, opened as a training opens it (pairs found, names and sizes hashed),
in a process of its own; the first time, with `--drop-caches` after the system forgot all files, and the median of later
times; memory is what the process holds above that before. Plain is a `Path` for every file, an object for every pair.
Reading: samples per second with nobody at work beside. Waiting: a small training's steps, and the share of their time
that they wait for a batch; plain reads a batch when it is asked for. Ways take turns, so that a drifting machine slows
all alike. Seconds are the clock's, as waiting is what is measured, and of opening the processor's too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from data_opening import SETS, make_set, opened
from data_opening import WAYS as OPENING_WAYS
from data_reading import SOURCES, Training, camvid_folder, reading, sources, transfer
from data_reading import WAYS as READING_WAYS
from surroundings import surroundings, write_json

PARTS = ("opening", "reading", "waiting", "transfer")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=120_000, help="of each large set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--drop-caches", action="store_true", help="before a first time; for root on Linux")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--camvid", type=Path, default=camvid_folder(), help="folder of CamVid's photos")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="to read at, height and width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=16, help="of the networks that wait")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="of their pictures")
    parser.add_argument("--steps", type=int, default=8, help="of an epoch of the training")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2, help="stretches of each way to wait, of `--steps` steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where sets are made, and removed again; default: a temporary one")
    parser.add_argument("--out", type=Path, help="parts of an earlier run that are not measured again stay in it")
    parser.add_argument("--opened", nargs=3, metavar=("SET", "WAY", "ROOT"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def opening(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a record per set and way."""
    records = []
    made: dict[Any, tuple[Path, int]] = {}
    for row in args.sets:
        files = SETS[row][0]
        if files not in made:
            root = folder / f"set{len(made)}"
            made[files] = root, make_set(row, root, args.pairs)
        root, count = made[files]
        for way in OPENING_WAYS:
            command = [sys.executable, __file__, "--repeats", str(args.repeats), "--opened", row, way, str(root)]
            command += ["--drop-caches"] if args.drop_caches else []
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            records.append({"set": row, "way": way, "files": count} | json.loads(output.splitlines()[-1]))
            print(opening_line(records[-1]), flush=True)
    return records


def opening_line(record: dict[str, Any]) -> str:
    """Return a line of the table of opening."""
    return (
        f"{record['set']:<24}{record['way']:<9}{record['files']:>8}{record['first_s']:>9.2f}{record['again_s']:>9.2f}"
        f"{record['again_cpu_s']:>9.2f}{record['held_mib']:>7.0f}{record['peak_mib']:>7.0f}{record['before_mib']:>9.0f}"
    )


def rates(args: argparse.Namespace, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return a record per source and size: samples per second of each way to read."""
    records = []
    for source, settings in found.items():
        for side in args.sizes:
            measured = reading(settings, (side, side), args.batch, args.repeats)
            records.append({"source": source, "size": [side, side], "samples_per_s": measured})
            print(
                f"{source:<10}{side:>4}x{side:<5}" + "".join(f"{rate:>11.1f}" for rate in measured.values()), flush=True
            )
    return records


def waiting(args: argparse.Namespace, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return a record per source, epoch and way."""
    records = []
    for source, settings in found.items():
        training = Training(settings, tuple(args.size), args.batch, args.width)
        training.stretch("plain", 1, 2)
        steps: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
        # Files are read anew in every epoch; scenes are drawn in the first and kept.
        epochs = 2 if source == "scenes" else 1
        for _ in range(args.rounds):
            for way in READING_WAYS:
                for epoch, part in enumerate(training.stretch(way, epochs, args.steps), start=1):
                    steps.setdefault((epoch, way), []).extend(part)
        for (epoch, way), each in sorted(steps.items(), key=lambda item: item[0][0]):
            waited, clock, processor = zip(*each, strict=True)
            record = {"source": source, "epoch": epoch, "way": way, "steps": len(each)}
            record |= {"waiting": sum(waited) / sum(clock), "waited_s": sum(waited) / len(each)}
            records.append(record | {"step_s": statistics.median(clock), "step_cpu_s": statistics.median(processor)})
            print(waiting_line(records[-1]), flush=True)
    return records


def waiting_line(record: dict[str, Any]) -> str:
    """Return a line of the table of waiting."""
    what = f"{record['source']}, epoch {record['epoch']}"
    return (
        f"{what:<20}{record['way']:<11}{record['waiting']:>9.1%}{record['waited_s']:>9.3f}"
        f"{record['step_s']:>9.3f}{record['step_cpu_s']:>9.3f}{record['steps']:>7}"
    )


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure what is asked for, and print a table of each part."""
    found: dict[str, list[dict[str, Any]]] = {}
    if "opening" in args.parts:
        head = f"{'first':>9}{'again':>9}{'CPU s':>9}{'MiB':>7}{'peak':>7}{'before':>9}"
        print(f"\n{f'opening {args.pairs} pairs':<24}{'way':<9}{'files':>8}{head}")
        found["opening"] = opening(args, folder)
    wanted = {"reading", "waiting"} & set(args.parts)
    if wanted and "camvid" in args.sources and args.camvid is None:
        print("CamVid is not here: its rows are skipped; LAB2PIX_DATA or --camvid says where it is.")
    places = sources(args.sources, folder, args.camvid, args.batch * args.steps) if wanted else {}
    if "reading" in args.parts:
        print(f"\n{'samples per second':<20}" + "".join(f"{way:>11}" for way in ("plain", "1 worker", "2 workers")))
        found["reading"] = rates(args, places)
    if "waiting" in args.parts:
        print(f"\n{'training':<20}{'way':<11}{'waiting':>9}{'s waited':>9}{'s/step':>9}{'CPU s':>9}{'steps':>7}")
        found["waiting"] = waiting(args, places)
    if "transfer" in args.parts:
        if torch.cuda.is_available():
            times = transfer(args.batch, tuple(args.size), args.repeats)
            found["transfer"] = [{"device": torch.cuda.get_device_name()} | times]
            print(f"\nto {torch.cuda.get_device_name()}, ms: {times}")
        else:
            print("\nNo CUDA here: the transfer to a GPU is skipped.")
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    if args.opened:
        row, way, root = args.opened
        print(json.dumps(opened(row, way, Path(root), args.repeats, drop=args.drop_caches)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args, Path(folder))
    if args.out:
        before = json.loads(args.out.read_text()) if args.out.exists() else {}
        names = ("pairs", "batch", "width", "size", "steps", "repeats", "rounds")
        how = surroundings() | {"settings": {name: getattr(args, name) for name in names}}
        how["settings"]["caches_dropped"] = args.drop_caches
        record = {
            "seconds": "of the clock, medians; cpu: of this process; first: the first time, again: later ones",
            "memory": "held and peak: of the process, above what it had before it opened the set, in MiB",
            "waiting_is": "share of the steps' time in which they wait for their batch",
            **{part: before[part] for part in PARTS if part in before},
            **{part: how | {"rows": rows} for part, rows in found.items()},
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
