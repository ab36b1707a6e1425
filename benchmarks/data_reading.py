"""Reading samples, alone and beside the steps of a small training; `data.py` measures it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data import build_dataset
from lab2pix.data.scenes.dataset import write_scenes
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method
from lab2pix.recipes import load_config
from lab2pix.training.loader import read_batches, read_in_turn
from lab2pix.training.sampler import StreamSampler, draw_noise
from lab2pix.training.state import TrainingState, build_state
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext

__all__ = ["SOURCES", "Training", "reading", "sources", "transfer"]

SOURCES = ("scenes", "files", "camvid")
"""Drawn scenes; the same written to disk at 480x360; photos of a street, where they are at hand."""
WAYS = ("plain", "thread", "1 worker", "2 workers")
"""Nothing read ahead; a thread; processes."""


def sources(names: list[str], folder: Path, camvid: Path | None, count: int) -> dict[str, list[str]]:
    """Return what to write into a configuration for each source; files that it needs are made in the folder."""
    found = {"scenes": ["data.layout=scenes", "data.label_space=scenes", f"data.scenes.train_count={count}"]}
    if "files" in names:
        write_scenes(folder / "scenes", count, (360, 480), 0)
        found["files"] = ["data.layout=folder", f"data.root={folder / 'scenes'}", "data.train_split=null"]
        found["files"] += ["data.label_space=scenes"]
    if camvid is not None:
        labels = Path(__file__).parents[1] / "examples" / "camvid.yaml"
        found["camvid"] = ["data.layout=folder", f"data.root={camvid}", f"data.label_space={labels}"]
    return {name: [*found[name], "data.val_split=null"] for name in names if name in found}


def configuration(source: list[str], size: tuple[int, int], batch: int, width: int) -> RunConfig:
    """Return a small training of V2 on a source."""
    widths = (
        f"{part}={width}" for part in ("generator.width", "discriminator.width", "generator.global_encoder.width")
    )
    return load_config(
        "v2-small",
        [
            *source,
            f"data.size=[{size[0]},{size[1]}]",
            f"train.batch_size={batch}",
            *widths,
            "data.instance_edges=false",
            "loss.cycle=0",
        ],
    )


def batches(config: RunConfig, way: str, dataset: Any, steps: range) -> Iterator[list[Batch]]:
    """Return a reader of a training's batches."""
    sampler = StreamSampler(len(dataset), seed=0, batch_size=config.train.batch_size, steps=steps)
    if way == "plain":
        return read_in_turn(dataset, sampler, 0)
    return read_batches(dataset, sampler, 0 if way == "thread" else int(way[0]), pin=torch.cuda.is_available())


def reading(source: list[str], size: tuple[int, int], batch: int, repeats: int) -> dict[str, Any]:
    """Return samples per second of each way to read, with nobody at work beside it.

    Each way reads the set in stretches of four batches, one for each repeat; the first batch is waited for uncounted.
    """
    config = configuration(source, size, batch, 8)
    space = LabelSpace.load(config.data.label_space)
    rates: dict[str, list[float]] = {}
    for way in ("plain", "1 worker", "2 workers"):
        dataset = build_dataset(config.data, "train", space, 0, paired=True)
        reader = batches(config, way, dataset, range(4 * repeats + 1))
        next(reader)
        rates[way] = []
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(4):
                next(reader)
            rates[way].append(4 * batch / (time.perf_counter() - start))
        reader.close()  # type: ignore[attr-defined]
    return {way: statistics.median(each) for way, each in rates.items()}


class Training:
    """A small training whose steps are timed, and so is their waiting."""

    def __init__(self, source: list[str], size: tuple[int, int], batch: int, width: int) -> None:
        torch.manual_seed(0)
        self.config = configuration(source, size, batch, width)
        self.space = LabelSpace.load(self.config.data.label_space)
        self.team = DistributedContext(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        method = build_method(self.config, self.space)
        method.to(self.team.device, torch.channels_last)
        self.state: TrainingState = build_state(method, self.team.device)
        self.context = build_step_context(self.state, self.team.device)

    def stretch(self, way: str, epochs: int, steps: int) -> list[list[tuple[float, float, float]]]:
        """Make steps on a set that is opened anew, after one to warm up.

        Returns:
            For each epoch and step the seconds that it waited, those that it took in all, and the processor's.
        """
        dataset = build_dataset(self.config.data, "train", self.space, 0, paired=True)
        reader = batches(self.config, way, dataset, range(epochs * steps))
        found = []
        for _ in range(epochs):
            taken = []
            for _ in range(steps):
                start, processor = time.perf_counter(), time.process_time()
                (part,) = next(reader)
                came = time.perf_counter()
                self._step(part)
                taken.append((came - start, time.perf_counter() - start, time.process_time() - processor))
            # The first waits for the reader to start, which a long training does once.
            found.append(taken[1:])
        reader.close()  # type: ignore[attr-defined]
        return found

    def _step(self, part: Batch) -> None:
        shape = self.state.method.sampling.noise_shape(self.config.data.size)
        assert shape is not None
        noise = draw_noise(0, self.state.step, 0, len(part), shape).to(self.team.device)
        training_step(self.state, [(part.to(self.team.device), noise)], self.context, self.team)
        if self.team.device.type == "cuda":
            torch.cuda.synchronize()


def transfer(batch: int, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Return milliseconds until the processor may go on after handing a batch to the GPU, and until it is there."""
    pageable = Batch(torch.zeros(batch, *size, dtype=torch.int64), torch.zeros(batch, 3, *size))
    found = {}
    for way, made in (("plain", pageable), ("pinned", pageable.pin_memory())):
        times = []
        for _ in range(repeats + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            made.to("cuda")
            free = time.perf_counter()
            torch.cuda.synchronize()
            times.append((free - start, time.perf_counter() - start))
        free, there = (1000 * statistics.median(column) for column in zip(*times[1:], strict=True))
        found |= {f"{way}_free_ms": free, f"{way}_there_ms": there}
    return found


def camvid_folder() -> Path | None:
    """Return where CamVid's photos lie (`LAB2PIX_DATA`, or beside the project), or None."""
    data = os.environ.get("LAB2PIX_DATA") or Path(__file__).parents[2] / "shared" / "data"
    folder = Path(data) / "camvid"
    return folder if folder.is_dir() else None
