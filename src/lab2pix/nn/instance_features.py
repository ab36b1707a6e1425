"""Instance features of Pix2PixHD (Wang et al., CVPR 2018, 3.4): encoded, averaged per instance, drawn from clusters."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MIN_SHARE = 1 / 64
"""Share of an image above which an instance takes part in the clustering."""


def _numbered(ids: Tensor) -> tuple[Tensor, int]:
    """Return the number of each pixel's instance, `[N * H * W]`, different in each image, and their count."""
    start, numbers = 0, []
    for image in ids:
        own, inverse = torch.unique(image, return_inverse=True)
        numbers.append(inverse.flatten() + start)
        start += len(own)
    return torch.cat(numbers), start


def _means(features: Tensor, numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each instance, `[count, C]` float32, and its number of pixels, `[count]`."""
    pixels = features.float().movedim(1, -1).flatten(0, -2)
    area = torch.bincount(numbers, minlength=count)
    sums = pixels.new_zeros(count, pixels.shape[1]).index_add(0, numbers, pixels)
    return sums / area.unsqueeze(1), area


def instance_mean(features: Tensor, ids: Tensor) -> Tensor:
    """Replace each feature by its mean over the instance in its image; differentiable.

    Args:
        features: `[N, C, H, W]`.
        ids: `[N, H, W]` integers; equal numbers in an image are one instance.

    Returns:
        `[N, C, H, W]` float32.
    """
    numbers, count = _numbered(ids)
    means, _ = _means(features, numbers, count)
    return means.index_select(0, numbers).view(*ids.shape, -1).movedim(-1, 1).contiguous()


def instance_features(features: Tensor, ids: Tensor, label: Tensor) -> list[tuple[int, Tensor]]:
    """Return class and mean feature `[C]` of each instance that covers more than `MIN_SHARE` of its image.

    Args:
        features: `[N, C, H, W]`.
        ids: `[N, H, W]` instance ids.
        label: `[N, H, W]` class ids; an instance has the class of its middle pixel.
    """
    numbers, count = _numbered(ids)
    means, area = _means(features, numbers, count)
    classes, found = label.flatten(), []
    for number in (area > MIN_SHARE * ids[0].numel()).nonzero().flatten().tolist():
        pixels = (numbers == number).nonzero().flatten()
        found.append((int(classes[pixels[len(pixels) // 2]]), means[number]))
    return found


def k_means(points: Tensor, clusters: int, *, seed: int = 0, iterations: int = 100) -> Tensor:
    """Return cluster centers by Lloyd's algorithm, started by k-means++ (Arthur and Vassilvitskii, 2007).

    Args:
        points: `[n, C]` float.
        clusters: number of centers; fewer if there are fewer different points.
        seed: seed of the first centers.
        iterations: most rounds of Lloyd's algorithm.

    Returns:
        `[k, C]`, k at most `clusters`.
    """
    points = points.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    centers = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centers) < clusters:
        distance = torch.cdist(points, centers).amin(1).square()
        if not bool(distance.any()):
            break
        centers = torch.cat([centers, points[torch.multinomial(distance, 1, generator=generator)]])
    for _ in range(iterations):
        nearest = torch.cdist(points, centers).argmin(1)
        count = torch.bincount(nearest, minlength=len(centers)).unsqueeze(1)
        sums = torch.zeros_like(centers).index_add(0, nearest, points)
        moved = torch.where(count > 0, sums / count.clamp(min=1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers.float()


class InstanceFeatureGenerator(nn.Module):
    """Generator whose condition is extended by instance features.

    Without a style image each instance gets a center of the clusters of its class, chosen by the noise, or zeros if
    the class has none. With a style image it gets the mean of the encoded style image over its pixels.

    Args:
        generator: maps condition and features, `[N, C + F, H, W]`, to images.
        encoder: maps images to feature maps `[N, F, H, W]`.
        classes: number of classes, the first channels of the condition.
        clusters: most clusters per class.
        channels: channels F of the features.
        by_instance: whether the last channel of the condition has instance ids; otherwise each class is one instance.

    Attributes:
        centers: `[classes, clusters, F]` cluster centers.
        counts: `[classes]` number of clusters of each class.
    """

    centers: Tensor
    counts: Tensor

    def __init__(
        self,
        generator: nn.Module,
        encoder: nn.Module,
        *,
        classes: int,
        clusters: int = 10,
        channels: int = 3,
        by_instance: bool = True,
    ) -> None:
        super().__init__()
        self.generator, self.encoder = generator, encoder
        self.classes, self.by_instance = classes, by_instance
        self.register_buffer("centers", torch.zeros(classes, clusters, channels))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    def forward(
        self,
        condition: Tensor,
        noise: Tensor | None = None,
        style: Tensor | None = None,
        instances: Tensor | None = None,
    ) -> Tensor:
        """Generate images.

        Args:
            condition: `[N, C, H, W]`, one-hot classes first; with `by_instance` a last channel has instance ids, which
                index the noise.
            noise: `[N, Z]` normal numbers, one per instance id; only needed without `style`.
            style: `[N, 3, H, W]` images in [-1, 1].
            instances: `[N, H, W]` integers, the instances over which encoded features are averaged; None: the ids in
                the condition, apart for each class.

        Returns:
            `[N, 3, H, W]` in [-1, 1].
        """
        classes = condition[:, : self.classes].argmax(1)
        ids = condition[:, -1].long() if self.by_instance else classes
        labels = condition[:, :-1] if self.by_instance else condition
        if style is not None:
            features = self.encode(style, classes + self.classes * ids if instances is None else instances)
        else:
            assert noise is not None
            features = self._draw(classes, ids, noise)
        image: Tensor = self.generator(torch.cat([labels, features], 1))
        return image

    def encode(self, image: Tensor, instances: Tensor) -> Tensor:
        """Return the features of images, averaged over instances `[N, H, W]`: `[N, F, H, W]`."""
        return instance_mean(self.encoder(image), instances)

    def _draw(self, classes: Tensor, ids: Tensor, noise: Tensor) -> Tensor:
        """Return the features of a random cluster of each instance's class, `[N, F, H, W]`."""
        own = noise.float().gather(1, ids.flatten(1) % noise.shape[1]).view(classes.shape)
        uniform = 0.5 * (1 + torch.erf(own / math.sqrt(2)))
        count = self.counts[classes]
        index = torch.minimum((uniform * count).long(), (count - 1).clamp(min=0))
        return self.centers[classes, index].movedim(-1, 1).contiguous()

    @torch.no_grad()
    def fit(self, features: Iterable[tuple[int, Tensor]], seed: int = 0) -> None:
        """Cluster the features of training instances per class.

        Args:
            features: class and feature `[F]` of each instance.
            seed: seed of the clustering.
        """
        by_class: dict[int, list[Tensor]] = {}
        for label, feature in features:
            by_class.setdefault(label, []).append(feature)
        self.centers.zero_()
        self.counts.zero_()
        for label, own in by_class.items():
            centers = k_means(torch.stack(own), self.centers.shape[1], seed=seed)
            self.centers[label, : len(centers)] = centers.to(self.centers)
            self.counts[label] = len(centers)
