"""Device selection and the process group of a distributed run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lab2pix.errors import ConfigError, Lab2PixError, did_you_mean

Result = TypeVar("Result")

_TIMEOUT = timedelta(hours=1)  # validation in process 0 can take long while the others wait
_BUCKET = 2**23  # elements per collective call
_LAST_WORK = 0.2  # seconds for a gloo thread to release the tensors of its last collective


@dataclass(frozen=True)
class DistributedContext:
    """Process group of a run, seen from one process.

    Attributes:
        rank: rank of this process, 0 to `size - 1`.
        size: number of processes.
        device: device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is process 0, the only one that writes files and logs."""
        return self.rank == 0

    @staticmethod
    def is_first() -> bool:
        """Whether this process has rank 0, also before the process group is initialized."""
        return int(os.environ.get("RANK", "0")) == 0

    def maximum(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all processes (in place)."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the elementwise mean over all processes (in place)."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
            values /= self.size
        return values

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum of an integer over all processes, so that all take the same decision."""
        return int(self.maximum(torch.tensor(number, device=self.device))) if self.size > 1 else number

    def run_on_main(self, work: Callable[[], Result]) -> Result:
        """Run a function in process 0 while the others wait; every process returns its result.

        Raises:
            Lab2PixError: process 0 raised it; every process raises the same error.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.main:
            try:
                outcome[0] = work()
            except Lab2PixError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise cast(Lab2PixError, outcome[1])
        return cast(Result, outcome[0])

    @torch.no_grad()
    def broadcast_buffers(self, networks: Iterable[nn.Module]) -> None:
        """Broadcast the buffers of process 0, so that its checkpoint is the complete state."""
        if self.size > 1:
            self._broadcast([buffer for network in networks for buffer in network.buffers()])

    @torch.no_grad()
    def broadcast_weights(self, networks: Iterable[nn.Module]) -> None:
        """Broadcast the parameters and buffers of process 0."""
        if self.size > 1:
            self._broadcast([tensor for network in networks for tensor in (*network.parameters(), *network.buffers())])

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients with their mean over processes.

        A missing gradient counts as 0 if another process has one; a parameter without a gradient in all processes
        keeps None.
        """
        if self.size == 1:
            return
        ordered = list(parameters)
        present = torch.tensor([parameter.grad is not None for parameter in ordered], device=self.device).int()
        for parameter, flag in zip(ordered, self.maximum(present).tolist(), strict=True):
            if flag and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in ordered if parameter.grad is not None]):
            flat = self.mean(torch.cat([tensor.flatten() for tensor in bucket]))
            _unflatten(flat, bucket)

    @staticmethod
    def _broadcast(tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.broadcast(flat, src=0)
            _unflatten(flat, bucket)

    def gather(self, values: Any) -> list[Any]:
        """Gather a value from every process: a list by rank in process 0, an empty list elsewhere."""
        if self.size == 1:
            return [values]
        gathered: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(values, gathered, dst=0)
        return gathered or []

    def convert_sync_batchnorm(self, network: nn.Module) -> nn.Module:
        """Return the network with synchronized batch norm (CUDA only; unchanged on other devices)."""
        if self.size == 1 or self.device.type != "cuda":
            return network
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(network))  # type: ignore[no-untyped-call]


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors by dtype into buckets of some megabytes, one collective call each."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_type.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(part.numel() for part in bucket) >= _BUCKET:
            yield by_type.pop(tensor.dtype)
    yield from by_type.values()


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy a flat tensor into tensors."""
    for part, tensor in zip(torch.split(flat, [tensor.numel() for tensor in tensors]), tensors, strict=True):
        tensor.copy_(part.view(tensor.shape))


def was_restarted() -> bool:
    """Return whether torchrun restarted this process after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistributedContext]:
    """Join torchrun's process group, or run as a single process; destroy the group at the end.

    An existing process group is used and not destroyed.

    Raises:
        ConfigError: the device is not available, or is MPS in several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and not dist.is_initialized():
        yield DistributedContext(0, 1, choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "mps":
        raise ConfigError("MPS computes in one process only; start without torchrun, or use --device cpu")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), chosen)
    except BaseException:
        # Destroying an NCCL group blocks on busy processes; torchrun terminates them once this process exits.
        mine = mine and chosen.type != "cuda"
        raise
    finally:
        if mine:
            if chosen.type != "cuda":
                # A DDP module keeps gloo's threads alive. They release their last tensors shortly after the collective
                # returns; if the interpreter is already shutting down, that aborts the process.
                time.sleep(_LAST_WORK)
            dist.destroy_process_group()


def choose_device(name: str | None = None) -> torch.device:
    """Return the requested device, or the first available of CUDA, MPS, CPU.

    Under torchrun, `cuda` without an index is the GPU of `LOCAL_RANK`.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`, or None.

    Raises:
        ConfigError: the device is unknown, or not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind, there in available.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device '{name}'{did_you_mean(name, available)}") from error
    if not available.get(device.type, False):
        there = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device '{name}' is not available on this machine; available: {there}")
    if device.type != "cuda":
        return device
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"GPU {index} is asked for, but this machine has {torch.cuda.device_count()}; start no more processes per "
            "machine than it has GPUs, or use --device cpu"
        )
    return torch.device("cuda", index)


def barrier() -> None:
    """Wait for all processes of torchrun; it terminates the rest if one exits with an error."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # workloads may differ by hours
    dist.barrier()
    dist.destroy_process_group()
