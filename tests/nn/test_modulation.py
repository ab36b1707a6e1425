from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lab2pix.nn.modulation import SPADE, DGNorm, resize_nearest


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_is_the_equation() -> None:
    """Eq. 3-5, written out: batch statistics, then (1 + gamma) and beta from label plus global feature."""
    layer, x, label, feature = (
        DGNorm(3, 4, hidden=5),
        torch.randn(2, 3, 8, 8),
        torch.rand(2, 4, 8, 8),
        torch.rand(2, 5, 8, 8),
    )
    mean = x.mean((0, 2, 3), keepdim=True)
    normalised = (x - mean) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    hidden = F.relu(layer.shared(label)) + feature
    torch.testing.assert_close(layer(x, label, feature), normalised * (1 + layer.gamma(hidden)) + layer.beta(hidden))


def test_without_global_feature_dg_norm_is_spade() -> None:
    plain, guided = SPADE(3, 4, hidden=5).eval(), DGNorm(3, 4, hidden=5).eval()
    guided.load_state_dict(plain.state_dict())
    x, label, feature = torch.randn(2, 3, 8, 8), torch.rand(2, 4, 8, 8), torch.rand(2, 5, 8, 8)
    assert torch.equal(guided(x, label), plain(x, label))
    assert torch.equal(plain(x, label, feature), plain(x, label))
    assert not torch.allclose(guided(x, label, feature), plain(x, label))


def test_norm_has_no_weights_of_its_own() -> None:
    assert not list(DGNorm(3, 4).norm.parameters())
    assert [name for name, _ in DGNorm(3, 4).named_children()] == ["norm", "shared", "gamma", "beta"]


def test_zero_weights_leave_the_normalised_feature() -> None:
    layer = DGNorm(3, 4, hidden=5)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    result = layer(torch.randn(4, 3, 8, 8) * 3 + 1, torch.rand(4, 4, 8, 8), torch.rand(4, 5, 8, 8))
    assert result.mean().abs() < 1e-5
    assert (result.std() - 1).abs() < 1e-2


def test_labels_are_resized_by_nearest_neighbour() -> None:
    label = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(resize_nearest(label, (2, 2)), label[..., ::2, ::2])
    assert resize_nearest(label, (4, 4)) is label
    layer, x, large = SPADE(3, 2, hidden=4).eval(), torch.randn(1, 3, 4, 4), torch.rand(1, 2, 16, 16)
    assert torch.equal(layer(x, large), layer(x, large[..., ::4, ::4]))


@pytest.mark.parametrize("training", [False, True])
def test_several_features_of_the_same_label_maps(training: bool) -> None:
    """Scale and shift of a label map serve all its features, as if the label maps were repeated."""
    x, label, feature = torch.randn(6, 3, 8, 8), torch.rand(2, 4, 8, 8), torch.rand(2, 5, 8, 8)
    found = []
    for labels, features in ((label, feature), (label.repeat(3, 1, 1, 1), feature.repeat(3, 1, 1, 1))):
        torch.manual_seed(1)
        layer = DGNorm(3, 4, hidden=5).train(training)
        one = x.clone().requires_grad_()
        result = layer(one, labels, features, slope=0.2)
        result.square().sum().backward()
        found.append((result, one.grad, layer.gamma.weight.grad, layer.norm.running_mean))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
