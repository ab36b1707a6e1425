from __future__ import annotations

import torch
import torch.nn.functional as F

from lab2pix.nn.normalization import SPADE, DGNorm, resize_nearest


def test_dgnorm_matches_eq5() -> None:
    """Eq. 3-5, written out: batch statistics, then (1 + gamma) and beta from label plus global feature."""
    layer, x, label, feature = (
        DGNorm(3, 4, hidden=5),
        torch.randn(2, 3, 8, 8),
        torch.rand(2, 4, 8, 8),
        torch.rand(2, 5, 8, 8),
    )
    mean = x.mean((0, 2, 3), keepdim=True)
    normalized = (x - mean) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    hidden = F.relu(layer.shared(label)) + feature
    torch.testing.assert_close(layer(x, label, feature), normalized * (1 + layer.gamma(hidden)) + layer.beta(hidden))


def test_dgnorm_without_global_feature_is_spade() -> None:
    plain, guided = SPADE(3, 4, hidden=5).eval(), DGNorm(3, 4, hidden=5).eval()
    guided.load_state_dict(plain.state_dict())
    x, label, feature = torch.randn(2, 3, 8, 8), torch.rand(2, 4, 8, 8), torch.rand(2, 5, 8, 8)
    assert torch.equal(guided(x, label), plain(x, label))
    assert torch.equal(plain(x, label, feature), plain(x, label))
    assert not torch.allclose(guided(x, label, feature), plain(x, label))


def test_spade_resizes_labels_by_nearest_neighbor() -> None:
    label = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(resize_nearest(label, (2, 2)), label[..., ::2, ::2])
    assert resize_nearest(label, (4, 4)) is label
    layer, x, large = SPADE(3, 2, hidden=4).eval(), torch.randn(1, 3, 4, 4), torch.rand(1, 2, 16, 16)
    assert torch.equal(layer(x, large), layer(x, large[..., ::4, ::4]))
