from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.nn.instance_features import InstanceFeatureGenerator, instance_features, instance_mean, k_means


def test_instance_mean_averages_per_image_and_passes_gradients_on() -> None:
    ids = torch.tensor([[[7, 7], [3, 3]], [[7, 3], [3, 3]]])
    features = torch.arange(8.0).view(2, 1, 2, 2).requires_grad_()
    mean = instance_mean(features, ids)
    assert torch.equal(mean[:, 0], torch.tensor([[[0.5, 0.5], [2.5, 2.5]], [[4.0, 6.0], [6.0, 6.0]]]))
    mean[1, 0, 0, 1].backward()
    third = 1 / 3
    expected = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]], [[[0.0, third], [third, third]]]])
    assert torch.allclose(features.grad, expected)  # type: ignore[arg-type]


def test_instance_features_leave_small_instances_out_and_take_the_middle_pixels_class() -> None:
    ids = torch.zeros(1, 16, 16, dtype=torch.int64)
    ids[0, 0, :4] = 5  # 4 of 256 pixels: a 64th, which is not more
    ids[0, 8:] = 6
    label = torch.zeros_like(ids)
    label[0, 8:] = 2
    label[0, 8, :3] = 1
    found = instance_features(ids[:, None].float(), ids, label)
    assert [(label, feature.tolist()) for label, feature in found] == [(0, [0.0]), (2, [6.0])]


def test_k_means_finds_separate_clusters() -> None:
    middles = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = (middles.unsqueeze(1) + 0.1 * torch.randn(3, 20, 2)).flatten(0, 1)
    centers = k_means(points, 3)
    assert torch.cdist(middles, centers).amin(1).max() < 0.1
    assert torch.equal(centers, k_means(points, 3))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12), st.integers(1, 5))
def test_k_means_centers_are_means_of_their_points(rows: list[tuple[int, int]], clusters: int) -> None:
    points = torch.tensor(rows, dtype=torch.float32)
    centers = k_means(points, clusters)
    assert len(centers) == min(clusters, len(set(rows)))
    nearest = torch.cdist(points, centers).argmin(1)
    means = torch.stack([points[nearest == index].mean(0) for index in range(len(centers))])
    assert torch.allclose(means, centers, atol=1e-5)


class Painter(nn.Module):
    """Shows the features that a generator gets."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the last channel three times."""
        return x[:, -1:].expand(-1, 3, -1, -1)


def painter(clusters: int = 2, *, by_instance: bool = True) -> InstanceFeatureGenerator:
    return InstanceFeatureGenerator(
        Painter(), nn.Conv2d(3, 1, 1), classes=2, clusters=clusters, channels=1, by_instance=by_instance
    )


def test_each_instance_gets_a_cluster_of_its_class_by_the_noise_of_its_id() -> None:
    network = painter()
    network.fit([(1, torch.tensor([0.25])), (1, torch.tensor([0.75]))])
    assert network.counts.tolist() == [0, 2]
    condition = torch.zeros(1, 3, 1, 3)
    condition[0, 1, 0, :2] = condition[0, 0, 0, 2] = 1  # class 1, 1, 0
    condition[0, 2, 0] = torch.tensor([4.0, 5.0, 4.0])  # instances
    noise = torch.zeros(1, 256)
    noise[0, 4], noise[0, 5] = -3, 3
    drawn = network(condition, noise)[0, 0, 0]
    assert sorted(drawn[:2].tolist()) == [0.25, 0.75]
    assert drawn[2] == 0  # no cluster
    noise[0, 4] = 3
    assert network(condition, noise)[0, 0, 0, 0] == drawn[1]


def test_a_style_image_gives_the_mean_of_its_features_over_each_instance() -> None:
    network = painter()
    condition = torch.zeros(1, 3, 1, 4)
    condition[0, 0, 0] = 1
    condition[0, 2, 0] = torch.tensor([1.0, 1.0, 2.0, 2.0])
    style = torch.rand(1, 3, 1, 4)
    drawn = network(condition, style=style)[0, 0, 0]
    encoded = network.encoder(style)[0, 0, 0]
    assert torch.allclose(drawn, encoded.view(2, 2).mean(1).repeat_interleave(2))
    by_class = painter(by_instance=False)
    by_class.encoder = network.encoder
    assert torch.allclose(by_class(condition[:, :2], style=style)[0, 0, 0], encoded.mean().expand(4))
