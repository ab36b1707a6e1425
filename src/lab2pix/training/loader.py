"""Reads a run's batches in order and ahead of the step, with or without worker processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lab2pix.batch import Batch
from lab2pix.data.samples import collate
from lab2pix.errors import Lab2PixError
from lab2pix.training.interrupts import worker_ignore_signals
from lab2pix.training.sampler import StreamSampler

__all__ = ["read_batches", "read_in_turn"]


class _Guarded(Dataset[Any]):
    """Hands on an unreadable file's error as a value: a worker would bury its sentence in a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: tuple[int, int]) -> Any:
        try:
            return self.dataset[index]
        except Lab2PixError as error:
            return error


def _collate(samples: Sequence[Any]) -> Batch | Lab2PixError:
    return next((sample for sample in samples if isinstance(sample, Lab2PixError)), None) or collate(samples)


def read_batches(
    dataset: Dataset[Any], sampler: StreamSampler, workers: int, *, pin: bool = False
) -> Generator[list[Batch], None, None]:
    """Yield, for each step, this process' batch in its parts; the next ones are read while the step is made.

    Args:
        dataset: takes `(epoch, index)`.
        sampler: the stream to read.
        workers: processes that read ahead; 0: a thread of this one does. The data are the same.
        pin: hand the batches over in memory that a GPU can fetch from while the processor goes on.

    Raises:
        DataError: a file cannot be read.
        LabelError: a label map does not fit the label space.
    """
    batches = read_in_turn(dataset, sampler, workers, pin=pin)
    if workers:
        yield from batches
        return
    # Steps spend their time in kernels that let other threads of Python run. One batch ahead is enough for a thread.
    with ThreadPoolExecutor(1, "data") as thread:
        coming = thread.submit(_next, batches)
        while (parts := coming.result()) is not None:
            coming = thread.submit(_next, batches)
            yield parts


def _next(batches: Iterator[list[Batch]]) -> list[Batch] | None:
    return next(batches, None)


def read_in_turn(
    dataset: Dataset[Any], sampler: StreamSampler, workers: int, *, pin: bool = False
) -> Iterator[list[Batch]]:
    """Yield what `read_batches` does, but where there are no workers read each batch when it is asked for."""
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=worker_ignore_signals,
        pin_memory=pin,
        # Its own source of random numbers: it would draw from the one that the step draws from, and change it.
        generator=torch.Generator(),
    )
    parts: list[Batch] = []
    # One pass for the whole run, so workers live as long as it does, and end with it: nothing else holds the iterator.
    for part in loader:
        if isinstance(part, Lab2PixError):
            raise part
        parts.append(part)
        if len(parts) == sampler.accumulate:
            yield parts
            parts = []
