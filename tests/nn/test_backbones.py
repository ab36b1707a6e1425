from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from lab2pix.nn.backbones import VGG16, VGG19, Backbone, CompactVGG19, EfficientNetLite0
from lab2pix.nn.fast import accelerate, to_low_precision

NETWORKS = (VGG16, VGG19, CompactVGG19, EfficientNetLite0)


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.name)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    network: Backbone = request.param()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (40, 72)])
def test_backbone_features_have_the_declared_shapes(backbone: Backbone, size: tuple[int, int]) -> None:
    features = backbone(torch.randn(2, 3, *size), levels=3, perceptual=True, consistency=True)
    assert tuple(f.shape[1] for f in features.discriminator) == backbone.discriminator_channels
    assert tuple(f.shape[1] for f in features.perceptual) == backbone.perceptual_channels
    assert [f.shape for f in features.consistency] == [f.shape for f in features.perceptual]
    first = 1 if backbone.name.startswith("vgg") else 2
    heights = [f.shape[2] for f in features.perceptual]
    if size != (40, 72):  # a size that is no multiple is rounded, down by VGG and up by EfficientNet
        assert [f.shape[2] for f in features.discriminator] == [size[0] // 8, size[0] // 16, size[0] // 32]
        assert heights == [size[0] // (first * 2**k) for k in range(5)]


@pytest.mark.slow
def test_backbone_one_pass_equals_separate_passes(backbone: Backbone) -> None:
    image = torch.randn(1, 3, 32, 32)
    both = backbone(image, levels=3, perceptual=True, consistency=True)
    alone = (
        backbone(image, levels=3).discriminator,
        backbone(image, levels=0, perceptual=True).perceptual,
        backbone(image, levels=0, consistency=True).consistency,
    )
    torch.testing.assert_close(both, alone, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "perceptual", "consistency"),
    [(0, False, False), (1, False, False), (3, False, False), (0, True, False), (1, True, False), (2, False, True)],
)
def test_backbone_computes_requested_features_only(
    backbone: Backbone, levels: int, perceptual: bool, consistency: bool
) -> None:
    ran: list[int] = []
    hooks = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(backbone.layers)]
    features = backbone(torch.randn(1, 3, 32, 32), levels=levels, perceptual=perceptual, consistency=consistency)
    for hook in hooks:
        hook.remove()
    assert len(features.discriminator) == levels
    assert len(features.perceptual) == 5 * perceptual
    assert len(features.consistency) == 5 * consistency
    taps = backbone.perceptual_layers * perceptual + backbone.consistency_layers * consistency
    last = max((*backbone.discriminator_layers[:levels], *taps), default=-1)
    assert ran == list(range(last + 1))


def test_backbone_stays_frozen_and_in_evaluation_mode(backbone: Backbone) -> None:
    parent = nn.Sequential(backbone).train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    features = backbone(image, levels=3, perceptual=True)
    torch.stack([f.square().mean() for f in features.perceptual]).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("network", "name"), [(VGG16, "vgg16"), (VGG19, "vgg19")])
def test_vgg_is_torchvisions(network: type[Backbone], name: str) -> None:
    torch.manual_seed(1)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).features
    theirs = theirs.to_empty(device="cpu")
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.ReLU):
            module.inplace = False
    ours = network()
    ours.load_weights({f"features.{key}": value for key, value in theirs.state_dict().items()})
    x = torch.randn(1, 3, 32, 32)
    features = ours(x, levels=3, perceptual=True)
    kinds = []
    for index, layer in enumerate(theirs):
        x = layer(x)
        if index in ours.discriminator_layers:
            torch.testing.assert_close(x, features.discriminator[ours.discriminator_layers.index(index)])
            kinds.append(type(layer))
        if index in ours.perceptual_layers:
            torch.testing.assert_close(x, features.perceptual[ours.perceptual_layers.index(index)])
            kinds.append(type(layer))
    assert kinds.count(nn.MaxPool2d) == 3
    assert kinds.count(nn.ReLU) == 5


@pytest.mark.parametrize("network", [VGG16, VGG19])
def test_vgg_perceptual_and_consistency_layers(
    network: type[Backbone],
) -> None:
    with torch.device("meta"):
        layers = list(network().layers)
    for taps, place in ((network.perceptual_layers, 1), (network.consistency_layers, 2)):
        found = []
        for tap in taps:
            assert isinstance(layers[tap], nn.ReLU)
            before = layers[:tap]
            pools = [index for index, layer in enumerate(before) if isinstance(layer, nn.MaxPool2d)]
            stage = before[pools[-1] + 1 if pools else 0 :]
            found.append((len(pools) + 1, sum(isinstance(layer, nn.Conv2d) for layer in stage)))
        assert found == [(stage, place) for stage in range(1, 6)]  # relu1_1, ... or relu1_2, ...


def test_normalize_is_each_networks_own() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    expected = torchvision.transforms.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Backbone.normalize(pixels * 2 - 1), expected)
    torch.testing.assert_close(EfficientNetLite0.normalize(pixels * 2 - 1), (255 * pixels - 127) / 128)
    torch.testing.assert_close(CompactVGG19.normalize(pixels * 2 - 1), pixels)


@pytest.mark.slow
def test_backbone_in_low_precision_equals_autocast(backbone: Backbone) -> None:
    """Weights in bfloat16, batch norms folded into the convolutions, gradients to the image; twice is once."""
    plain = copy.deepcopy(backbone)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    low = copy.deepcopy(plain)
    to_low_precision(low, torch.bfloat16)
    to_low_precision(low, torch.bfloat16)
    accelerate(low, torch.device("cpu"))
    assert {parameter.dtype for name, parameter in low.named_parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in low.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in low.modules())
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    exact = plain(image, perceptual=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = low(image.requires_grad_(), perceptual=True)
    for mine, theirs in zip([*seen.discriminator, *seen.perceptual], [*exact[0], *exact[1]], strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).norm() < 3e-2 * theirs.norm()  # bfloat16 has 8 bits, and there are 50 layers
    seen.perceptual[-1].float().sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_small_images_have_all_features_of_losses(backbone: Backbone) -> None:
    """The smallest of three scales of an image of 64x64."""
    found = backbone(torch.rand(1, 3, 16, 16), levels=0, perceptual=True, consistency=True)
    assert len(found.perceptual) == len(found.consistency) == 5
    assert all(feature.numel() and feature.isfinite().all() for feature in (*found.perceptual, *found.consistency))
