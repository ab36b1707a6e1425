"""Prefetching data loader that yields batches in a fixed order, with or without worker processes."""

from __future__ import annotations

import warnings
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


class _ErrorsAsValues(Dataset[Any]):
    """Dataset that returns errors as values, because a worker would wrap their message in a traceback."""

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
    """Yield the micro-batches of this process for each step, and prefetch the next ones meanwhile.

    Without worker processes, a thread of this process reads; the data are the same. With `pin`, batches are in
    page-locked memory, for asynchronous copies to a GPU.

    Raises:
        DataError: unreadable file.
        LabelError: a label map does not fit the label space.
    """
    batches = read_in_turn(dataset, sampler, workers, pin=pin)
    if workers:
        yield from batches
        return
    # Kernels release the GIL, so a thread can read during a step. One batch ahead is enough.
    with ThreadPoolExecutor(1, "data") as thread:
        pending = thread.submit(_next, batches)
        while (parts := pending.result()) is not None:
            pending = thread.submit(_next, batches)
            yield parts


def _next(batches: Iterator[list[Batch]]) -> list[Batch] | None:
    return next(batches, None)


def read_in_turn(
    dataset: Dataset[Any], sampler: StreamSampler, workers: int, *, pin: bool = False
) -> Iterator[list[Batch]]:
    """Yield the same as `read_batches`, without prefetching if there are no workers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # the training loop says it in a sentence
        loader = DataLoader(
            _ErrorsAsValues(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=worker_ignore_signals,
            pin_memory=pin,
            # Its own generator: the default one is that of the training step, and the loader would advance it.
            generator=torch.Generator(),
        )
        samples = iter(loader)
    parts: list[Batch] = []
    # One iterator for the whole run; workers end when it is dropped.
    for part in samples:
        if isinstance(part, Lab2PixError):
            raise part
        parts.append(part)
        if len(parts) == sampler.accumulate:
            yield parts
            parts = []
