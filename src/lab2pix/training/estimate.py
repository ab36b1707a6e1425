"""Estimate of the time and memory of a run, from a few steps on this machine or from counted operations."""

from __future__ import annotations

import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, Progress, RandomSource, example_inputs
from lab2pix.training.state import build_state, build_training
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext, choose_device
from lab2pix.utils.hardware import available_memory, peak_resident
from lab2pix.utils.threads import limit_threads

_STEPS = 3
_SECONDS = 30.0  # seconds after which no further step is measured
_CPU_WORK = 5e11  # operations of a step that a CPU makes in seconds; larger batches are measured in part
_UTILIZATION = 0.3
_LAUNCH = 1e-5  # seconds in which PyTorch starts an operation on a GPU, which is the limit of small networks


class Gpu(NamedTuple):
    """Peak rates of a GPU's data sheet in TFLOP/s, without sparsity, for convolutions: of float32 and of 16 bits."""

    float32: float
    half: float


GPUS = {
    "t4": Gpu(8.1, 65),
    "v100": Gpu(15.7, 125),
    "rtx-3090": Gpu(35.6, 71),
    "rtx-4090": Gpu(82.6, 165),
    "l4": Gpu(60, 121),
    "a100": Gpu(156, 312),
    "h100": Gpu(494, 989),
    "h200": Gpu(494, 989),
}
"""GPUs by name. PyTorch computes convolutions of float32 in TF32 where the GPU has it."""


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a training step.

    Attributes:
        flops: floating-point operations of convolutions and matrix products.
        launches: operations of any kind.
        seconds: seconds of a step; None if its memory is not available here.
        memory: peak memory in bytes.
        checkpoint: size of a checkpoint in bytes.
        where: what was measured or counted.
    """

    flops: int
    launches: int
    seconds: float | None
    memory: int
    checkpoint: int
    where: str


def _zeros(value: Any) -> Any:
    meta = isinstance(value, Tensor) and value.is_meta
    return torch.zeros(value.shape, dtype=value.dtype) if meta else value


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations of any kind, floating-point operations, and the peak of the bytes of living meta tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.calls = self.peak = self._now = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        try:
            result = func(*args, **(kwargs or {}))
        except (NotImplementedError, RuntimeError):  # the result depends on values: take zeros
            result = tree_map(_on_meta, func(*tree_map(_zeros, args), **tree_map(_zeros, kwargs or {})))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._storages:
                    self._storages.add(key)
                    self._now += size
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._free, key, size)
        return result

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._now -= size


def estimate_run(method: Method, *, device: str | None, gpu: str | None) -> Estimate:
    """Estimate the time and memory of a training step, with random inputs and random weights.

    Args:
        method: method of the run, which cannot be used afterwards: its networks are moved to the meta device.
        device: device to measure on; None: the best one available.
        gpu: name in `GPUS`, to estimate for instead of measuring, at a utilization of 0.3.

    Raises:
        ConfigError: unknown GPU or device.
    """
    if gpu is not None and gpu not in GPUS:
        raise ConfigError(f"unknown GPU '{gpu}'{did_you_mean(gpu, GPUS)}")
    config, half = method.config, method.config.train.precision != "fp32"
    counted = _count(method)
    if gpu is not None:
        rate = GPUS[gpu].half if half else GPUS[gpu].float32
        where = f"{gpu}, counted, at {_UTILIZATION:.0%} of {rate:g} TFLOP/s"
        seconds = max(counted.flops / (rate * 1e12 * _UTILIZATION), counted.launches * _LAUNCH)
        return replace(counted, seconds=seconds, where=where)
    target = choose_device(device)
    if counted.memory > available_memory(target):
        return replace(counted, where=f"{target}, which has {available_memory(target) / 2**30:.1f} GiB of memory")
    with limit_threads(config.train.threads):
        return _measure(config, method.label_space, target, counted)


def _inputs(method: Method) -> tuple[Batch, Tensor | None]:
    """Return the random inputs of one micro-batch."""
    size, train = method.config.padded_size, method.config.train
    count = train.batch_size // train.accumulate
    batch, noise = example_inputs(method.sampling, size, count)
    return replace(batch, image=torch.rand(count, 3, *size) * 2 - 1), noise


def _count(method: Method) -> Estimate:
    """Count a step's operations and memory on the meta device, where nothing is computed."""
    config = method.config
    # Autocast does not reach the meta device: what is computed in 16 bits is counted in 32, and halved below.
    method.config = config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp32"})})
    weights = sum(p.nbytes for network in method.networks.values() for p in network.parameters())
    batch, noise = _inputs(method)
    meta = torch.device("meta")
    with _Counter() as counter:
        method.to(meta, torch.preserve_format)
        state = build_state(method, meta)
        fixed, counter.calls = counter.peak, 0
        context = build_step_context(state, torch.device("cpu"))
        context = replace(context, progress=Progress(1, 3), random=RandomSource(meta), cache={})
        batch, noise = batch.to(meta), None if noise is None else noise.to(meta)
        for phase in method.phases:
            if phase.when(context.progress):
                phase.backward(batch, noise, context)
    moments = sum(
        2 * p.nbytes for optimizer in state.optimizers.values() for g in optimizer.param_groups for p in g["params"]
    )
    activations = (counter.peak - fixed) // (1 if config.train.precision == "fp32" else 2)
    averages = sum(p.nbytes for average in state.averages.values() for p in average.network.parameters())
    exported = averages or sum(p.nbytes for p in method.sampling_generator(method.networks).parameters())
    return Estimate(
        flops=counter.flops * config.train.accumulate,
        launches=counter.calls * config.train.accumulate,
        seconds=None,
        memory=fixed + activations + moments,
        checkpoint=weights + moments + exported,
        where="",
    )


def _measure(config: RunConfig, label_space: LabelSpace, device: torch.device, counted: Estimate) -> Estimate:
    """Measure a few steps, without reading data, compilation, samples and scores."""
    dist, train = DistributedContext(0, 1, device), config.train
    samples = train.batch_size
    if device.type == "cpu" and counted.flops > _CPU_WORK:
        samples = _fewest_samples(config, int(_CPU_WORK * samples / counted.flops))
        update = {"train": train.model_copy(update={"batch_size": samples, "accumulate": 1})}
        config = config.model_copy(update=update)
    state = build_training(config, label_space, dist, pretrained=False)
    batch, noise = _inputs(state.method)
    part = batch.to(device), None if noise is None else noise.to(device)
    context = replace(build_step_context(state, device), progress=Progress(1, 3))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) <= _STEPS and (not seconds or time.perf_counter() - began < _SECONDS):
        start = time.perf_counter()
        training_step(state, [part] * config.train.accumulate, context, dist)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()
    steps = seconds[1:] or seconds  # the first one allocates memory and chooses kernels
    where = f"{device}, measured in {len(steps)} step{'s' * (len(steps) > 1)} with random inputs"
    if samples == train.batch_size:
        return replace(counted, seconds=min(steps), memory=memory, where=where)
    where += f", {samples} of {train.batch_size} samples at a time"
    return replace(counted, seconds=min(steps) * train.batch_size / samples, where=where)


def _fewest_samples(config: RunConfig, samples: int) -> int:
    """Return the number of samples, 1 or more, or the next one that the method can train on."""
    for count in range(max(1, samples), config.train.batch_size):
        with suppress(ConfigError):
            config.check_samples_per_pass(count, "")
            return count
    return config.train.batch_size
