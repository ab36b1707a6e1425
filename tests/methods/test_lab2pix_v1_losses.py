"""Lab2Pix-V1: inputs of its losses, sampling and scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix import losses
from lab2pix.batch import Batch
from lab2pix.methods import (
    StepContext,
    build_generator,
    build_sampling,
    generate,
    generate_pyramid,
)
from lab2pix.methods.lab2pix_v1 import downsample2x, duplicate_labels
from lab2pix.recipes import load_config
from tests.helpers.tiny import (
    NO_BACKBONE,
    SKETCH,
    at,
    batch,
    build,
    discriminator_half,
    generator_half,
    gradients,
    noise,
    space_of,
    step,
    still,
    tiny,
)

# --- what the losses see -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_v1_photos_reach_only_the_discriminators():
    method, found = still(build("loss.sharpness_schedule=constant")), []
    data = batch(method.config)
    for photo in (data.image, -data.image):
        step(method, replace(data, image=photo))
        found.append([gradients(network) for network in method.networks.values()])
    (generator, _, discriminator), (other_generator, _, other_discriminator) = found
    assert all(torch.equal(gradient, other_generator[name]) for name, gradient in generator.items())
    assert not all(torch.allclose(gradient, other_discriminator[name]) for name, gradient in discriminator.items())


@pytest.mark.slow
def test_require_images_refuses_a_batch_without_photos():
    with pytest.raises(ValueError, match="images"):
        generator_half(method := build(*NO_BACKBONE), replace(batch(method.config), image=None))


def test_v1_mask_weighs_generated_images_only():
    method = build(*NO_BACKBONE)
    groups = [[[torch.randn(2, 1, 8, 8)] for _ in range(3)] for _ in range(3)]
    mask = method._mask(batch(method.config))
    masked, plain = (method._discriminator_terms(groups, weights, 1.0) for weights in (mask, None))
    assert mask.std() > 0.1
    assert torch.equal(masked["real"], plain["real"])
    assert torch.equal(masked["sharpness"], plain["sharpness"])
    assert not torch.allclose(masked["fake"], plain["fake"])
    expected = sum(losses.masked_mean(losses.vanilla_fake(level[0]), mask) for level in groups[0]) / 2
    torch.testing.assert_close(masked["fake"], expected)


@pytest.mark.slow
def test_the_generator_s_adversarial_term_is_masked():
    found = []
    for rate in (1, 2):
        method = still(build("generator.progressive=false", f"loss.foreground_rate={rate}", *NO_BACKBONE))
        carry, values = generator_half(method)
        found.append(values["adversarial"])
        assert (carry.mask is None) == (rate == 1)
    assert not torch.allclose(*found)


@pytest.mark.slow
def test_sharpness_weight_rises_with_the_run():
    method = still(build("loss.sharpness=0.8", *NO_BACKBONE))
    carry, _ = generator_half(method)
    zero, half, whole = (
        discriminator_half(method, carry, StepContext(progress=at(progress))) for progress in (0.0, 0.5, 1.0)
    )
    assert zero["sharpness"].item() == 0
    assert whole["sharpness"].item() > 0.1
    torch.testing.assert_close(half["sharpness"], 0.5 * whole["sharpness"])
    for term in ("real", "fake"):
        assert zero[term] == half[term] == whole[term]
    method.config = tiny("loss.sharpness=0.8", "loss.sharpness_schedule=constant", *NO_BACKBONE)
    constant = discriminator_half(method, carry, StepContext(progress=at(0.0)))
    torch.testing.assert_close(constant["sharpness"], whole["sharpness"])


@pytest.mark.slow
def test_cycle_segmentation_rises_over_the_first_part_of_the_run_alone():
    method = still(build("loss.cycle_warmup=0.5", "loss.cycle=10"))
    values = [
        float(generator_half(method, context=StepContext(progress=at(progress)))[1]["cycle"])
        for progress in (0.0, 0.25, 0.5, 1.0)
    ]
    constant = still(build("loss.cycle_warmup=0", "loss.cycle=10"))
    whole = float(generator_half(constant, context=StepContext(progress=at(0.0)))[1]["cycle"])
    assert whole > 1
    assert values == pytest.approx([whole / 1000, whole / 1000**0.5, whole, whole], rel=1e-4)


def test_every_scale_of_the_photo_is_blurred_by_itself():
    method = build(*NO_BACKBONE)
    carry, _ = generator_half(method)
    soft = method.blurred_images(carry.real)
    assert [image.shape for image in soft] == [image.shape for image in carry.real]
    for image, sharp in zip(soft, carry.real, strict=True):
        assert torch.equal(image, losses.blur(sharp, "average"))
        assert (image - sharp).abs().mean() > 0.05
    # Why not the smaller forms of the blurred photo: they would be sharp again.
    torch.testing.assert_close(downsample2x(soft[0]), carry.real[1])


def test_downsample2x_is_the_mean_of_four():
    method = build(*NO_BACKBONE)
    data = batch(method.config)
    carry, _ = generator_half(method, data)
    assert torch.equal(carry.real[0], data.image)
    torch.testing.assert_close(carry.real[2], F.avg_pool2d(data.image, 4))


@pytest.mark.slow
def test_pixels_without_a_class_are_not_read_back():
    config = tiny("data.label_space=cityscapes", *NO_BACKBONE)
    method, data = build(config=config), batch(config)
    unknown = method.label_space.num_classes
    data.label[:, :32] = unknown
    slopes: list[Tensor] = []
    for segmenter in method.segmenters:
        segmenter.register_forward_hook(lambda module, given, logits: logits.register_hook(slopes.append) and None)
    generator_half(method, data)
    assert build_sampling(config, method.label_space).condition.channels == unknown + 1
    assert len(slopes) == 3
    for slope in slopes:
        half = slope.shape[-2] // 2
        assert slope.shape[1] == unknown
        assert not slope[..., :half, :].any()
        assert slope[..., half:, :].any()


# --- sketches ----------------------------------------------------------------------------------------------------


def test_sketches_are_one_channel_of_paper_and_line():
    config = tiny(*SKETCH)
    label = torch.tensor([[[0, 1], [1, 0]]])
    condition = build_sampling(config, space_of(config)).condition(Batch(label=label))
    assert condition.tolist() == [[[[1.0, -1.0], [-1.0, 1.0]]]]
    assert condition.dtype == torch.float32
    assert build_sampling(config, space_of(config)).condition.channels == 1


def test_sketches_are_read_back_as_two_classes_and_weigh_all_pixels_alike():
    method = build(*SKETCH, *NO_BACKBONE)
    assert [segmenter.classifier.out_channels for segmenter in method.segmenters] == [2, 2, 2]
    assert method._mask(batch(method.config)) is None


# --- noise -------------------------------------------------------------------------------------------------------


def test_duplicate_labels_repeats_a_quarter_of_the_batch():
    label = torch.arange(9).reshape(9, 1, 1)
    image, edges = label.unsqueeze(1).float(), label.unsqueeze(1).float()
    given = Batch(label=label, image=image, edges=edges, names=tuple("abcdefghi"))
    twice = duplicate_labels(given)
    assert twice.label.flatten().tolist() == [0, 1, 0, 1, 4, 5, 6, 7, 8]
    assert twice.edges.flatten().tolist() == twice.label.flatten().tolist()
    assert "".join(twice.names) == "ababefghi"
    assert torch.equal(twice.image, image)  # whatever photos: nobody compares with them
    assert duplicate_labels(Batch(label=label[:3])).label.flatten().tolist() == [0, 0, 2]
    assert torch.equal(duplicate_labels(Batch(label=label[:1])).label, label[:1])


@pytest.mark.slow
def test_duplicate_labels_replaces_other_labels():
    method = build("loss.diversity=0.1", *NO_BACKBONE)
    conditions: list[Tensor] = []
    method.networks["generator"].register_forward_pre_hook(lambda module, given: conditions.append(given[0]))
    data = batch(method.config, 4)
    generator_half(method, data)
    expected = build_sampling(method.config, method.label_space).condition(data)[[0, 0, 2, 3]]
    assert len(conditions) == 1
    assert torch.equal(conditions[0], expected)


# --- pictures and scores -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_generate_pyramid_gives_three_images_and_generate_the_largest():
    config = tiny()
    space = space_of(config)
    torch.manual_seed(0)
    generator = build_generator(config, space).eval()
    with torch.no_grad():
        images = generate_pyramid(generator, build_sampling(config, space), batch(config), noise())
        again = generate(generator, build_sampling(config, space), batch(config), noise())
        other = generate(generator, build_sampling(config, space), batch(config), noise(seed=2))
    assert [tuple(image.shape) for image in images] == [(2, 3, size, size) for size in (64, 32, 16)]
    assert torch.equal(images[0], again)
    assert not torch.equal(again, other)
    paired = load_config("v2-small", ["generator.width=2", "generator.modulation_hidden=4"])
    with torch.no_grad():
        single = generate_pyramid(
            build_generator(paired, space).eval(), build_sampling(paired, space), batch(paired), noise()
        )
    assert len(single) == 1


class Reads(torch.nn.Module):
    """A segmenter that reads the same in every image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def test_validation_scores_say_how_much_of_the_label_map_is_read_back():
    method = build("data.label_space=cityscapes", *NO_BACKBONE)
    data, classes = batch(method.config), method.label_space.num_classes
    data.label[0] = classes  # a map of nothing but unknown pixels
    logits = 20.0 * F.one_hot(data.label.clamp(max=classes - 1), classes).permute(0, 3, 1, 2)
    logits[1, :, :16] = logits[1, :, :16].roll(1, 0)  # a quarter of the other map is misread
    method.segmenters[0] = Reads(logits)
    scores = method.validation_scores(data, data.image)
    assert tuple(scores) == method.score_names == ("cycle", "seg_error")
    assert scores["seg_error"].item() == pytest.approx(0.25)
    assert scores["cycle"].item() == pytest.approx(0.25 * 20, rel=1e-4)


def test_without_segmenters_there_are_no_scores():
    method = build("loss.cycle=0", *NO_BACKBONE)
    assert method.score_names == ()
    assert method.validation_scores(batch(method.config), torch.zeros(2, 3, 64, 64)) == {}
