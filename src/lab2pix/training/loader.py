"""Reads a run's batches in order, with or without worker processes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lab2pix.batch import Batch
from lab2pix.data.dataset import collate
from lab2pix.errors import Lab2PixError
from lab2pix.training.sampler import StreamSampler
from lab2pix.training.stops import outlive_signals

__all__ = ["read_batches"]


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


def read_batches(dataset: Dataset[Any], sampler: StreamSampler, workers: int) -> Generator[list[Batch], None, None]:
    """Yield, for each step, this process' batch in its parts.

    Args:
        dataset: takes `(epoch, index)`.
        sampler: the stream to read.
        workers: processes that read ahead; 0 reads in this one. The data are the same.

    Raises:
        DataError: a file cannot be read.
        LabelError: a label map does not fit the label space.
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=outlive_signals,
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
