"""Distances between the feature distributions of two sets of images: Fréchet (FID) and kernel (KID)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lab2pix.errors import DataError

KERNEL_POOL = 10_000
"""Largest number of feature vectors that are kept for the kernel distance."""
NEIGHBORS = 3
"""Neighbors k of precision and recall, as published."""
_ROWS = 1000
"""Features whose distances to all others are computed at a time."""
_DIGITS = 15  # hexadecimal digits of a hash that fit into 64 bits


class FeatureMoments:
    """Running mean and covariance of features, with a bounded sample of them; memory is constant.

    The sample holds the images whose names have the lowest SHA-256, so it depends neither on their order nor on the
    number of processes.

    Args:
        dimension: length of a feature vector.
        pool: largest number of feature vectors in the sample.
    """

    def __init__(self, dimension: int, pool: int = KERNEL_POOL) -> None:
        self.dimension = dimension
        self.pool = pool
        self.count = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
        # A max-heap of hashes: negated, as heapq is a min-heap. Feature bytes break ties between equal names.
        self._sample: list[tuple[int, bytes]] = []

    def update(self, features: Tensor, names: Sequence[str]) -> None:
        """Add a batch.

        Args:
            features: `[N, dimension]`.
            names: names of the images, which select the sample for the kernel distance.
        """
        rows = features.detach().cpu().double()
        if rows.shape != (len(names), self.dimension):
            raise ValueError(f"features are {tuple(rows.shape)}, not {(len(names), self.dimension)}")
        if not len(rows):
            return
        mean = rows.mean(0)
        centered = rows - mean
        self._join(len(rows), mean, centered.T @ centered)
        for name, row in zip(names, features.detach().cpu().float().numpy(), strict=True):
            digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
            self._keep(int(digest[:_DIGITS], 16), row.tobytes())

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Add the moments of another part by the difference of the means, which is stable for large means."""
        if not count:
            return
        total = self.count + count
        shift = mean - self._mean
        self._mean += shift * (count / total)
        self._scatter += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.count = total

    def _keep(self, rank: int, row: bytes) -> None:
        if len(self._sample) < self.pool:
            heapq.heappush(self._sample, (-rank, row))
        else:
            heapq.heappushpop(self._sample, (-rank, row))

    def merge(self, other: FeatureMoments) -> None:
        """Add the moments of another set."""
        self._join(other.count, other._mean, other._scatter)
        for rank, row in other._sample:
            self._keep(-rank, row)

    def mean(self) -> Tensor:
        """Return the mean, `[dimension]` float64."""
        return self._mean

    def covariance(self) -> Tensor:
        """Return the covariance, `[dimension, dimension]` float64, divided by count - 1."""
        return self._scatter / max(1, self.count - 1)

    def sample(self) -> Tensor:
        """Return the kept features `[n, dimension]` float32, in the order of their hashes."""
        rows = b"".join(row for _, row in sorted(self._sample, reverse=True))
        return torch.from_numpy(np.frombuffer(rows, np.float32).copy()).view(-1, self.dimension)

    @property
    def rank_deficient(self) -> bool:
        """Whether there are too few images for a covariance of full rank, which makes distances unreliable."""
        return self.count <= self.dimension

    def state(self) -> dict[str, Tensor]:
        """Return the state as plain tensors."""
        ranks = [-rank for rank, _ in sorted(self._sample, reverse=True)]
        return {
            "count": torch.tensor(self.count),
            "mean": self._mean.clone(),
            "scatter": self._scatter.clone(),
            "sample": self.sample(),
            "ranks": torch.tensor(ranks, dtype=torch.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], pool: int = KERNEL_POOL) -> FeatureMoments:
        """Return the moments of a state."""
        moments = cls(len(state["mean"]), pool)
        moments.count = int(state["count"])
        moments._mean, moments._scatter = state["mean"].clone(), state["scatter"].clone()
        for rank, row in zip(state["ranks"].tolist(), state["sample"].numpy(), strict=True):
            moments._keep(rank, row.tobytes())
        return moments


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the squared Fréchet distance of two normal distributions, which is FID on Inception features.

    Raises:
        DataError: a set of fewer than two images.
    """
    _require_two(a, b, "Frechet")
    # Tr (Sa Sb)^(1/2) = Tr (Sa^(1/2) Sb Sa^(1/2))^(1/2): symmetric, so stable for near-singular matrices.
    values, vectors = torch.linalg.eigh(a.covariance())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b.covariance() @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean() - b.mean()).square().sum() + a.covariance().trace() + b.covariance().trace() - 2 * shared
    return max(0.0, float(apart))


def kernel_distance(
    a: FeatureMoments, b: FeatureMoments, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy with a cubic kernel, which is KID on Inception features.

    The seed selects the random subsets; a subset is smaller where a set has fewer images.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        DataError: a set of fewer than two images.
    """
    _require_two(a, b, "kernel")
    one, other = a.sample().double(), b.sample().double()
    size = min(subset_size, len(one), len(other))
    random = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        x = one[random.choice(len(one), size, replace=False)]
        y = other[random.choice(len(other), size, replace=False)]
        found.append(_discrepancy(x, y))
        if size == len(one) == len(other):  # all subsets are equal
            break
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def _discrepancy(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate over all pairs, with the kernel (x·y / dimension + 1)³."""
    count = len(x)

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    within = sum(float(k.sum() - k.diag().sum()) for k in (kernel(x, x), kernel(y, y)))
    return within / (count * (count - 1)) - 2 * float(kernel(x, y).mean())


def precision_recall(
    generated: FeatureMoments, real: FeatureMoments, neighbors: int = NEIGHBORS
) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al., 2019) of the kept features.

    Precision is the share of generated images that are nearer to some photo than its k-th nearest other photo; recall
    is that of photos, with the roles exchanged.

    Raises:
        DataError: a set of `neighbors` images or fewer.
    """
    fewest = min(generated.count, real.count)
    if fewest <= neighbors:
        raise DataError(
            f"precision and recall take sets of more than {neighbors} images, not of {fewest}; give more, or omit "
            "--precision-recall"
        )
    fake, photos = generated.sample().double(), real.sample().double()
    return _share_within(fake, photos, neighbors), _share_within(photos, fake, neighbors)


def _share_within(points: Tensor, centers: Tensor, neighbors: int) -> float:
    """Return the share of points within the distance of a center to its k-th nearest other center."""
    parts = torch.split(centers, _ROWS)
    # The nearest center of all is the center itself.
    radii = torch.cat([torch.cdist(part, centers).kthvalue(neighbors + 1, dim=1).values for part in parts])
    inside = [(torch.cdist(part, centers) <= radii).any(1) for part in torch.split(points, _ROWS)]
    return float(torch.cat(inside).double().mean())


def _require_two(a: FeatureMoments, b: FeatureMoments, what: str) -> None:
    fewest = min(a.count, b.count)
    if fewest < 2:
        raise DataError(
            f"the {what} distance between sets of {a.count} and {b.count} images is undefined; give at least two "
            "of each"
        )
