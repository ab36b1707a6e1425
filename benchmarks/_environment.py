"""Machine, versions, clocks, memory and a repeatable training step: what all benchmarks share."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

import lab2pix
from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.build import AnyDataset, build_dataset
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Losses, Method, Progress, build_method, get_method
from lab2pix.nn.fast import accelerate
from lab2pix.training.compile import compile_networks
from lab2pix.training.sampler import draw_noise
from lab2pix.training.state import build_state
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils import hardware
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.files import write_atomically

__all__ = [
    "TrainingSteps",
    "environment",
    "in_turns",
    "open_dataset",
    "peak_allocated",
    "peak_resident",
    "processor",
    "seconds",
    "write_json",
]

_LINE = 300
"""Longest JSON value that is written on one line although it contains others."""


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return command, machine and versions."""
    machine = f"{processor()}, {torch.get_num_threads()} threads"
    versions = {"lab2pix": lab2pix.__version__, "torch": torch.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        machine += f"; {device.name}, {device.total_memory / 2**30:.0f} GiB"
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {"command": shlex.join(["python", *sys.argv]), "machine": machine, "versions": versions}


def seconds(device: torch.device) -> float:
    """Return the processor time of this process, or the wall-clock time once a CUDA device is idle."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the median time of each call; calls take turns, and the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if repeat:
                taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_allocated(call: Callable[[], Any], device: torch.device) -> float:
    """Return the peak of torch's allocations during a call, above those before it, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = list(profile.profiler.kineto_results.events())
    held = highest = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**20


def peak_resident() -> float:
    """Return the peak resident memory of this process, in MiB."""
    return hardware.peak_resident() / 2**20


def open_dataset(config: RunConfig, split: Literal["train", "val"] = "train") -> AnyDataset:
    """Return the dataset that a run reads."""
    space, paired = LabelSpace.load(config.data.label_space), get_method(config.method).paired
    return build_dataset(config.data, split, space, config.seed, paired=paired)


class TrainingSteps:
    """A run's training step, to be repeated on any batch.

    Args:
        config: settings of the run.
        dist: processes that train together; default: this one, on the CPU.
        label_space: default: the one that the settings name.
        pretrained: load the backbones' weights; time and memory do not depend on them.
        plain: do not accelerate the networks.
    """

    def __init__(
        self,
        config: RunConfig,
        dist: DistributedContext | None = None,
        label_space: LabelSpace | None = None,
        *,
        pretrained: bool = True,
        plain: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.dist = config, dist or DistributedContext(0, 1, torch.device("cpu"))
        self.label_space = label_space or LabelSpace.load(config.data.label_space)
        method = build_method(config, self.label_space, pretrained=pretrained)
        memory_format = torch.channels_last if config.train.channels_last else torch.preserve_format
        if plain:
            Method.to(method, self.device, memory_format)
            getattr(method, "feature_extractors", torch.nn.Identity()).to(self.device)
        else:
            method.to(self.device, memory_format)
        if not plain and not config.train.compile:
            for name, network in method.networks.items():
                if name not in method.plain_networks:
                    accelerate(network, self.device)
        self.state = build_state(method, self.device)
        if config.train.compile:
            compile_networks(method)
        self.context = replace(build_step_context(self.state, self.device), progress=Progress(1, 3))

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.dist.device

    def __call__(self, batch: Batch) -> dict[str, Losses]:
        """Make one step on a batch, in as many micro-batches as the settings say; return each phase's losses."""
        size = len(batch) // self.config.train.accumulate
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        shape = self.state.method.sampling.noise_shape(self.config.data.size)
        noise = None if shape is None else draw_noise(0, range(len(batch)), shape).to(self.device)
        noises = [None] * len(parts) if noise is None else torch.split(noise, size)
        micro_batches = [(part.to(self.device), z) for part, z in zip(parts, noises, strict=True)]
        return training_step(self.state, micro_batches, self.context, self.dist)


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write a record with one row of a table per line, and create the folder if it is missing."""
    write_atomically(file, _lines(record, "") + "\n")


def _lines(value: Any, indent: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    if indent and (len(text) <= _LINE or all(_is_flat(child) for child in children)):
        return text
    deeper = indent + " "
    if isinstance(value, Mapping):
        rows = [f"{json.dumps(str(key), ensure_ascii=False)}: {_lines(child, deeper)}" for key, child in value.items()]
    else:
        rows = [_lines(child, deeper) for child in value]
    first, last = "{}" if isinstance(value, Mapping) else "[]"
    return first + "\n" + ",\n".join(deeper + row for row in rows) + "\n" + indent + last


def _is_flat(value: Any) -> bool:
    """Return whether a value is a scalar or a list of scalars."""
    items = value if isinstance(value, (list, tuple)) else ()
    return not isinstance(value, dict) and not any(isinstance(item, (dict, list, tuple)) for item in items)
