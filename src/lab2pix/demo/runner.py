"""Runs the demonstration within a given time: calibrates steps, trains, generates, writes the page."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.demo.images import Scene, draw_scenes, write_sheet
from lab2pix.demo.page import write_page
from lab2pix.demo.timelapse import save_progress_frame
from lab2pix.demo.variants import DemoVariant, find_variant, variant_of
from lab2pix.errors import ConfigError, OutputError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import get_method, read_config
from lab2pix.recipes import load_config
from lab2pix.training import RunResult, latest_checkpoint, read_run_config, train
from lab2pix.training.log import read_log

CALIBRATION_STEPS = 16
WARM_UP = 4
SHOWS = 8
"""Number of frames of the time lapse."""
SHOW_SECONDS = 4.0
"""Duration of each, checkpoint and scores included, on a slow machine."""
FINISH_SECONDS = 10.0
"""Duration of generation, page and exit."""
SHOWN = 8
LABEL_MAPS = 16
"""Held-out label maps that are written as files."""


@dataclass(frozen=True)
class DemoResult:
    """Result of the demonstration.

    Attributes:
        page: the page; None where a signal interrupted training.
        sheet: the contact sheet; None likewise.
        exit_code: 0, or 128 + the signal.
    """

    page: Path | None
    sheet: Path | None
    exit_code: int = 0


@dataclass(frozen=True)
class MachineSpeed:
    """Speed of this machine.

    Attributes:
        step: seconds per training step, without drawing scenes.
        scene: seconds to draw a scene.
    """

    step: float
    scene: float


def run_demo(
    out: Path | str = "demo",
    *,
    method: str = "v2",
    minutes: float = 8,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    device: str | None = None,
    overrides: tuple[str, ...] = (),
) -> DemoResult:
    """Train a small network on drawn landscapes and show its images of held-out label maps.

    A finished demonstration is left as it is; an interrupted one is resumed.

    Args:
        out: folder for the page, the images and the run.
        method: `v2` (preset `v2-small`); `v1` (`v1-small`), which learns without pairs; `v1-sketch`
            (`v1-small-sketch`), which does so from line drawings.
        minutes: total time; a slow last step may exceed it.
        seed: seed of all random numbers.
        size: side, or height and width, of the images in pixels; None: the preset's.
        device: `cpu`, `cuda` or `mps`; None: the best one available.
        overrides: further settings, such as `generator.width=8`.

    Returns:
        Paths of the page and the contact sheet.

    Raises:
        ConfigError: no time, an unknown method, or conflicting settings.
        OutputError: the folder holds something else or a demonstration of another method, or cannot be written.
        TrainingError: as `lab2pix.training.train`.
    """
    began, out, kind = time.monotonic(), Path(out), find_variant(method)
    if minutes <= 0:
        raise ConfigError(f"a demo of {minutes} minutes has no time to train; give it some")
    run, page, sheet = out / "run", out / "index.html", out / "samples.png"
    _check_folder(out, run, kind)
    if page.exists() and sheet.exists():
        _say(f"The demo in {out} is finished: open {page}; for another one choose another --out or remove that folder.")
        return DemoResult(page, sheet)

    if (run / "config.yaml").exists():
        config = read_run_config(run)
        result = _continue(config, run, minutes, device)
    else:
        config = _configure(kind, seed, size, overrides)
        _say("Measuring how fast this machine is ...")
        pace = measure(config, device, at_most=minutes / 8)
        if pace is None:
            return DemoResult(None, None, 130)
        left = 60 * minutes - (time.monotonic() - began)
        config = plan_steps(config, pace, left)
        _say(
            f"Training for {config.train.steps} steps ({pace.step:.2f} s each); Ctrl-C stops, the same command goes on."
        )
        result = train(config, run, device=device, validators=(save_progress_frame,))
    if result is not None and result.interrupted:
        _say(f"Stopped at step {result.step} of {result.total_steps}; repeat the command to continue.")
        return DemoResult(None, None, result.exit_code)

    _say(f"Drawing from {kind.condition}s that the network has not seen ...")
    synthesizer = Synthesizer.load(run, device=device, optimize="auto")
    held_out = _held_out(config)
    scenes = draw_scenes(synthesizer, held_out, SHOWN, kind.seeds if kind.unpaired else 1)
    write_sheet(sheet, scenes, synthesizer.label_space, kind)
    _write_labels(out / "labels", held_out, synthesizer.label_space)
    write_page(page, run, scenes, synthesizer, kind)
    _say(f"Done in {(time.monotonic() - began) / 60:.1f} minutes: open {page}, or look at {sheet}.")
    return DemoResult(page, sheet)


def _say(text: str) -> None:
    print(text, flush=True)


def _check_folder(out: Path, run: Path, kind: DemoVariant) -> None:
    """Raise OutputError where the path is a file, or a folder that holds something else than a demonstration."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder for the demo; choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (run / "config.yaml").exists():
        raise OutputError(f"{out} holds something else than a demo; choose another --out")
    found = variant_of(read_run_config(run))
    if found is None:
        raise OutputError(f"{run} holds another run than the demo's; choose another --out")
    if found != kind:
        raise OutputError(
            f"{out} holds a demo of method {found.method}, not of {kind.method}; choose another --out, or go on with "
            f"--method {found.method}"
        )


def _configure(
    kind: DemoVariant, seed: int, size: int | tuple[int, int] | None, overrides: tuple[str, ...]
) -> RunConfig:
    settings = [f"name={kind.run_name}", f"seed={seed}", f"data.scenes.seed={seed}", "monitor.tensorboard=false"]
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        settings.append(f"data.size=[{height},{width}]")
    return load_config(kind.preset, [*settings, *overrides])


def _changed(config: RunConfig, changes: dict[str, dict[str, object]]) -> RunConfig:
    tree = config.model_dump(mode="json")
    for section, values in changes.items():
        tree[section].update(values)
    return read_config(tree)


def measure(config: RunConfig, device: str | None, at_most: float) -> MachineSpeed | None:
    """Measure speed by some training steps in a temporary folder, on few scenes that are drawn beforehand.

    Returns:
        The speed; None after Ctrl-C.
    """
    began = time.monotonic()
    for index in range(4):
        draw_scene(0, index, config.data.size)
    scene = (time.monotonic() - began) / 4
    few = {"train_count": config.train.batch_size, "val_count": 1, "seed": config.data.scenes.seed}
    short = _changed(
        config,
        {
            "data": {"scenes": few},
            "train": {"steps": CALIBRATION_STEPS, "epochs": None, "max_minutes": at_most},
            "monitor": {"log_every": 1, "sample_every": 10**9, "samples": 1},
            "checkpoint": {"every": 10**9},
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train(short, Path(folder, "run"), device=device)
        if result.interrupted:
            return None
        lines = list(read_log(Path(folder, "run", "log.jsonl")))
    seconds = [0.0, *(line["seconds"] for line in lines if "seconds" in line)][min(WARM_UP, result.step - 1) :]
    # The median passes over steps during which other programs kept the processor.
    return MachineSpeed(statistics.median(after - before for before, after in pairwise(seconds)), scene)


def plan_steps(config: RunConfig, pace: MachineSpeed, seconds: float) -> RunConfig:
    """Return the run that takes `seconds`, everything included; at most twice the steps of its preset."""
    left = 0.93 * max(1.0, seconds - FINISH_SECONDS - SHOWS * SHOW_SECONDS)
    batch, scenes = config.train.batch_size, config.data.scenes.train_count
    # An unpaired sample takes its label map from one scene and its image from another.
    drawn = batch * (1 if get_method(config.method).paired else 2)
    steps = left / (pace.step + drawn * pace.scene)
    if steps * drawn > scenes:  # scenes are cached from the second epoch on
        steps = (left - scenes * pace.scene) / pace.step
    longest = 2 * (config.train.steps or 3000)
    total = max(SHOWS, min(int(steps), longest))
    total -= total % SHOWS
    return _changed(
        config,
        {
            "train": {"steps": total, "epochs": None, "max_minutes": max(0.05, (seconds - FINISH_SECONDS) / 60)},
            "monitor": {"sample_every": total // SHOWS, "log_every": max(1, min(10, total // 50))},
            "checkpoint": {"every": max(1, total // 4)},
        },
    )


def _continue(config: RunConfig, run: Path, minutes: float, device: str | None) -> RunResult | None:
    """Resume an interrupted run; returns None where it is finished and only the page is missing."""
    checkpoint = latest_checkpoint(run)
    if checkpoint is not None and checkpoint.name == f"step-{config.train.steps:08d}":
        return None
    _say(f"Going on with the demo in {run.parent} ({checkpoint.name if checkpoint else 'from the first step'}) ...")
    config = _changed(config, {"train": {"max_minutes": minutes}})
    return train(config, run, resume=True, device=device, validators=(save_progress_frame,))


def _held_out(config: RunConfig) -> list[Scene]:
    """Return the first held-out scenes."""
    dataset = build_dataset(
        config.data,
        "val",
        LabelSpace.load(config.data.label_space),
        config.seed,
        paired=get_method(config.method).paired,
    )
    return [Scene.from_sample(dataset[index]) for index in range(min(LABEL_MAPS, len(dataset)))]


def _write_labels(folder: Path, scenes: Sequence[Scene], label_space: LabelSpace) -> None:
    folder.mkdir(exist_ok=True)
    for scene in scenes:
        write_label_png(folder / f"{scene.name}.png", scene.label, label_space)
