"""`lab2pix fit`: labels photos, plans, trains to the end of the time, and shows what was learned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from lab2pix.config.schema import RunConfig
from lab2pix.data.files import read_image
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.evaluation.segmenters import default_segmenter, load_segmenter
from lab2pix.fit.classes import CLASSES_FILE, find_label_space
from lab2pix.fit.dataset import Found, arrange, find_data
from lab2pix.fit.fingerprint import MachineFingerprint, check_count, fingerprint_data
from lab2pix.fit.plan import Plan, make_plan
from lab2pix.fit.report import write_report
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.inference.label_photos import LabelSettings, label_photos, predict
from lab2pix.recipes import load_config
from lab2pix.training import RunResult, latest_checkpoint, train
from lab2pix.training.checkpoint import checkpoint_step
from lab2pix.utils.distributed import choose_device
from lab2pix.utils.extras import install_command
from lab2pix.utils.files import output_errors, read_json_lines, write_atomically
from lab2pix.utils.text import describe_failures

PLAN_FILE, PAGE, REQUEST_FILE, KEPT_FILE = "plan.yaml", "index.html", "fit.json", "labeled-classes.yaml"
FINISH_SECONDS = 20.0
"""Seconds for the last checkpoint, the scores and the page."""
_POLL_SECONDS = 1.0
_LOOKED_AT = 32
"""Photos by which the classes of a segmenter are chosen."""
_LEAST_SHARE = 0.002
"""Smallest share of their pixels for which a class is kept."""

Bars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar, and gives the callback that takes the number done and the total."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        data: folder of photos, of photos and label maps, or of label maps and photos that are no pairs.
        out: folder of the result.
        minutes: total time in minutes.
        overrides: settings of the user, `key=value`.
        segmenter: segmenter for photos without label maps.
        classes: YAML file of classes for labeling.
        device: device; None: the best one available.
        browser: whether the painter opens while the run trains.
    """

    data: Path
    out: Path
    minutes: float = 60.0
    overrides: tuple[str, ...] = ()
    segmenter: str | None = None
    classes: Path | None = None
    device: str | None = None
    browser: bool = True

    def record(self) -> dict[str, Any]:
        """Return what must be the same for a second call to go on with the first."""
        given = {"data": str(self.data.resolve()), "overrides": list(self.overrides), "segmenter": self.segmenter}
        return {**given, "classes": None if self.classes is None else str(self.classes.resolve())}


@dataclass(frozen=True)
class FitResult:
    """Result of a fit.

    Attributes:
        run: the run; None if only a plan was made.
        page: the page; None if a signal ended training, or only a plan was made.
        exit_code: 0, or 128 + the signal.
    """

    run: Path | None = None
    page: Path | None = None
    exit_code: int = 0


@dataclass
class _Session:
    """One call: its request, its clock and how it talks."""

    request: Request
    bars: Bars
    show_plan: Callable[[Plan], None]
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds for training that are left of this call."""
        return 60 * self.request.minutes - (time.monotonic() - self.began) - FINISH_SECONDS


def run_fit(
    request: Request,
    *,
    plan_only: bool = False,
    bars: Bars,
    show_plan: Callable[[Plan], None],
) -> FitResult:
    """Label photos if they have no label maps, choose settings by rules, train, and show the images.

    The same call goes on with an interrupted fit, and leaves a finished one as it is.

    Args:
        request: what is asked for.
        plan_only: write the plan, and do not train.
        bars: opens progress bars.
        show_plan: shows a new plan.

    Raises:
        ConfigError: a wrong setting, no time for a checkpoint, no segmenter, or not enough memory.
        DataError: photos that are missing, unreadable, too few, all alike or too small.
        OutputError: the folder holds something else, or cannot be written; too little room for checkpoints.
        TrainingError: as `lab2pix.training.train`.
    """
    session, out = _Session(request, bars, show_plan), request.out
    run, plan, page = out / "run", out / PLAN_FILE, out / PAGE
    stored = _check_folder(request)
    if page.exists():
        say(f"The fit in {out} is finished: open {page}; for another one choose another --out.")
        return FitResult(run, page)
    if not (run / "config.yaml").exists() and not _is_current(plan, request, stored):
        _prepare(session, stored)
    if plan_only:
        say(f"The plan is {plan}; the same command without --plan trains with it, also after you have changed it.")
        return FitResult()
    result = _train(session, load_config(str(plan)), run)
    if result.interrupted:
        say(f"Stopped at step {result.step} of {result.total_steps}; the same command goes on.")
        return FitResult(run, None, result.exit_code)
    say("Drawing from label maps that the network has not seen ...")
    write_report(out, run, page, result.scores, device=request.device)
    say(f"Done in {(time.monotonic() - session.began) / 60:.1f} minutes: open {page}, or look at {out / 'sheet.png'}.")
    return FitResult(run, page)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


# --- its folder -----------------------------------------------------------------------------------------------------


def _check_folder(request: Request) -> dict[str, Any]:
    """Return what an earlier call was asked for, or an empty dict.

    Raises:
        OutputError: the folder holds something else, or a fit with other data or settings.
    """
    out = request.out
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder for the fit; choose another --out")
    if out.resolve() == request.data.resolve():
        raise OutputError(f"{out} is the folder of the data itself; choose another --out")
    file = out / REQUEST_FILE
    if not file.exists():
        for entry in sorted(out.iterdir()) if out.is_dir() else []:
            if not entry.name.startswith("."):
                raise OutputError(f"{out} holds something else than a fit ('{entry.name}'); choose another --out")
        return {}
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key, value in request.record().items() if stored.get(key) != value]
    if changed and ("data" in changed or (out / "run" / "config.yaml").exists()):
        raise OutputError(
            f"{out} holds a fit with another '{changed[0]}' ({stored.get(changed[0])}, now "
            f"{request.record()[changed[0]]}); repeat its command, or choose another --out"
        )
    return stored


def _is_current(plan: Path, request: Request, stored: dict[str, Any]) -> bool:
    """Return whether there is a plan that the request can go on with.

    Raises:
        OutputError: a plan that the user has changed would be replaced.
    """
    if not plan.exists():
        return False
    same = {**stored, **request.record(), "minutes": request.minutes} == stored
    if not same and _digest(plan.read_text(encoding="utf-8")) != stored.get("plan"):
        raise OutputError(
            f"{plan} was changed by hand, and this command asks for another plan; repeat the command that wrote it, or "
            f"remove it"
        )
    return same


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- the plan -------------------------------------------------------------------------------------------------------


def _prepare(session: _Session, stored: dict[str, Any]) -> None:
    """Look at the data, label photos, choose settings and write the plan."""
    request, out = session.request, session.request.out
    found = find_data(request.data)
    check_count(len(found.photos))
    if found.form == "photos" and request.segmenter is None and default_segmenter() is None:
        raise ConfigError(
            f"{request.data} has photos without label maps, and no model to label them is given; add --segmenter, such "
            "as hf:nvidia/segformer-b0-finetuned-ade-512-512, which is downloaded, or a folder of one"
        )
    with output_errors(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / REQUEST_FILE, json.dumps({**stored, **request.record()}, indent=2) + "\n")
    if found.form == "photos":
        found = _label(session, found, out / "data")
    given = [text.partition("=")[2] for text in request.overrides if text.startswith("data.label_space=")]
    space, where = find_label_space(given[-1] if given else None, found, out / CLASSES_FILE)
    data = arrange(found, out / "data")
    with session.bars("Reading") as progress:
        fingerprint = fingerprint_data(data, space, progress)
    machine = MachineFingerprint.take(choose_device(request.device), out)
    say(f"{fingerprint}\n{machine}\nMeasuring how fast this machine is ...")
    plan = make_plan(
        data, fingerprint, machine, space, where, session.left, request.overrides, request.data.resolve().name
    )
    text = plan.to_yaml()
    record = {**request.record(), "minutes": request.minutes, "plan": _digest(text)}
    with output_errors(out, "choose another --out"):
        write_atomically(out / PLAN_FILE, text)
        write_atomically(out / REQUEST_FILE, json.dumps(record, indent=2) + "\n")
    session.show_plan(plan)


def _label(session: _Session, found: Found, out: Path) -> Found:
    """Label photos, and return the pairs."""
    request = session.request
    segmenter = request.segmenter or default_segmenter()
    assert segmenter is not None
    network = load_segmenter(segmenter, None)
    network.to(choose_device(request.device))
    classes = request.classes or request.out / KEPT_FILE
    if not classes.exists():
        names = _frequent_classes(list(found.photos.values()), network)
        write_atomically(classes, yaml.safe_dump({"name": request.data.resolve().name, "classes": names}))
    mapping = ClassMapping.read(classes, network.space)
    with session.bars("Labeling") as progress:
        report = label_photos(request.data, out, network, mapping, on_progress=progress)
    for line in describe_failures(report.failed, "photo"):
        say(line)
    return find_data(out)


def _frequent_classes(photos: Sequence[Path], network: Segmenter) -> list[str]:
    """Return the segmenter's classes that have more than a few pixels in some of the photos; all others would be idle.

    Raises:
        DataError: none has.
    """
    everything, counts = ClassMapping.keep(network.space, "all"), torch.zeros(network.space.num_classes + 1)
    for path in photos[:: -(-len(photos) // _LOOKED_AT)]:
        with suppress(DataError):  # reported when it is labeled
            ids, _ = predict(read_image(path), network, everything, LabelSettings(least_region=0, snap=0))
            counts += torch.bincount(ids.flatten(), minlength=len(counts)) / ids.numel()
    shares = counts[:-1] / counts.sum().clamp(min=1)
    names = [name for name, share in zip(network.space.names, shares, strict=True) if share >= _LEAST_SHARE]
    if not names:
        raise DataError(
            f"{network.name} knows nothing in the photos of {photos[0].parent}; give another --segmenter, or the "
            "classes to look for as --classes"
        )
    return names


# --- training -------------------------------------------------------------------------------------------------------


def _train(session: _Session, config: RunConfig, run: Path) -> RunResult:
    """Start or resume the run, with the time that is left."""
    request = session.request
    resume = (run / "config.yaml").exists()
    left = session.left - (_trained_seconds(run) if resume else 0.0)
    if resume:
        say(f"Going on with the fit in {request.out} ...")
    limit = {"train.max_minutes": max(0.05, left / 60)}
    config = load_config(config, limit)
    with _painter(run) if request.browser else nullcontext():
        return train(config, run, resume=resume, device=request.device)


def _trained_seconds(run: Path) -> float:
    """Return the training time of a run up to its latest checkpoint, from its log."""
    checkpoint = latest_checkpoint(run)
    step = 0 if checkpoint is None else checkpoint_step(checkpoint) or 0
    lines = read_json_lines(run / "log.jsonl")
    return max((line.get("seconds", 0.0) for line in lines if line["step"] <= step), default=0.0)


@contextmanager
def _painter(run: Path) -> Iterator[None]:
    """Serve the painter in a process of its own from the first checkpoint on."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        say(f"The painter does not open, as the extra 'web' is not installed: {install_command('web')}")
        yield
        return
    ended = threading.Event()
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        while not ended.wait(_POLL_SECONDS):
            if latest_checkpoint(run) is not None:
                processes.append(subprocess.Popen(painter_command(run), env={**os.environ, "OMP_NUM_THREADS": "1"}))
                return

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for process in processes:
            process.terminate()
            process.wait()


def painter_command(run: Path) -> Sequence[str]:
    """Return the command of the painter that follows a run."""
    return [sys.executable, "-m", "lab2pix", "paint", str(run), "--follow", "--port", "0"]
