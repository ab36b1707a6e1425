from __future__ import annotations

import torch

from lab2pix.nn.patch_projection import PatchProjection


def test_projection_takes_the_same_places_of_all_images_and_returns_unit_rows() -> None:
    projection = PatchProjection([3, 5], width=4)
    features = [torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)]
    places = [torch.tensor([7, 0, 23]), torch.tensor([5])]
    one, two = projection(features, places)
    assert (one.shape, two.shape) == ((6, 4), (2, 4))
    assert torch.allclose(one.norm(dim=1), torch.ones(6), atol=1e-5)
    row = projection.mlp_0(features[0][1, :, 1, 1])  # second image, place 7 = 1 * 6 + 1
    assert torch.allclose(one[3], row / row.norm(), atol=1e-5)


def test_published_heads_have_so_many_parameters() -> None:
    projection = PatchProjection([3, 128, 256, 256, 256])
    assert sum(parameter.numel() for parameter in projection.parameters()) == 560_384
