"""Judging what a generator draws of held-out label maps: of a finished run, or of one that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.build import AnyDataset
from lab2pix.data.datasets import SampleSource
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import gather
from lab2pix.evaluation.features import distance_names, feature_name
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.methods import latent_from_seed
from lab2pix.utils.distributed import DistributedContext

__all__ = ["SEGMENTATION_SCORES", "evaluate_generator", "held_out_noise", "sample_key", "score_names"]

SEGMENTATION_SCORES = ("ppa", "pca", "ciou")
"""Scores that a segmenter's reading gives."""


def sample_key(place: int) -> str:
    """Return what the judge calls the label map at a place of the held-out part."""
    return f"{place:06d}"


def held_out_noise(seed: int, places: Sequence[int], length: int) -> Tensor:
    """Return the noise of the label maps at some places, `[len(places), length]`."""
    return torch.stack([latent_from_seed(seed, place, length) for place in places])


def score_names(
    features: Iterable[str], *, segmenter: bool, pairs: bool, photos: bool, samples: int
) -> tuple[str, ...]:
    """Return which scores held-out label maps will get, before anything is loaded or drawn.

    Args:
        features: networks that the distances look through; see `load_features`.
        segmenter: whether one reads label maps in the pictures.
        pairs: whether it is known which photo belongs to which label map.
        photos: whether there are photos at all.
        samples: pictures per label map.
    """
    distances = [name for spec in features for name in distance_names(feature_name(spec))]
    return (
        *(SEGMENTATION_SCORES if segmenter else ()),
        *(distances if photos else ()),
        *(("psnr", "ssim") if pairs else ()),
        *(("diversity_pixels",) if samples > 1 else ()),
    )


def evaluate_generator(
    judge: MetricAccumulator,
    dataset: AnyDataset,
    draw: Callable[[Batch, Sequence[int], int], Tensor],
    *,
    photos: SampleSource | None = None,
    count: int | None = None,
    seed: int,
    batch_size: int,
    team: DistributedContext,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReadingLog:
    """Let the judge see the first label maps of a held-out part, each process its share; process 0 gets it all.

    Args:
        judge: starts empty in every process; how many pictures of each label map it wants, it says.
        dataset: the held-out part.
        draw: returns pictures `[N, 3, H, W]` uint8 of a batch, given the places of its label maps and a seed.
        photos: held-out ones that belong to no label map that anybody knows.
        count: how many label maps, and how many of these photos; None: all.
        seed: of the first picture of each label map; the next ones count up.
        batch_size: pictures at once.
        team: the processes, which must all call this.
        on_progress: called with this process' label maps done and their number.

    Returns:
        Which sizes were judged.
    """
    log = ReadingLog()
    mine = _share(len(dataset), count, team)
    for start in range(0, len(mine), batch_size):
        places = mine[start : start + batch_size]
        batch = collate([dataset[(0, place)] for place in places])
        drawn = [draw(batch, places, seed + number) for number in range(judge.sample_sets)]
        real = None if batch.image is None else float_to_uint8(batch.image)
        label = None if judge.networks.segmenter is None else batch.label
        judge.update([sample_key(place) for place in places], drawn, real, label)
        log.sizes[(drawn[0].shape[-2], drawn[0].shape[-1])] += len(places)
        if on_progress is not None:
            on_progress(start + len(places), len(mine))
    if photos is not None:
        _update_real(judge, photos, _share(len(photos), count, team), batch_size)
    gather(judge, log, team)
    return log


def _share(length: int, count: int | None, team: DistributedContext) -> list[int]:
    """Return which of the first ones this process looks at."""
    return list(range(team.rank, length if count is None else min(count, length), team.size))


def _update_real(judge: MetricAccumulator, photos: SampleSource, places: Sequence[int], batch_size: int) -> None:
    nothing = torch.Generator()  # held-out photos are neither cropped nor flipped
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        pictures = [photos.transform.photo(photos.read_photo(place), nothing) for place in some]
        judge.update_real([sample_key(place) for place in some], torch.stack(pictures))
