"""Rules that hold between settings; each broken one is a sentence that names the rule and a way out."""

from __future__ import annotations

from pathlib import Path

from lab2pix.config.schema import FEATURE_NAMES, Config
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.utils.registry import LAYOUTS, label_space_names

__all__ = ["check_rules", "nearest_size"]

_FINEST_STRIDE = 32
"""Level 3 of the largest hierarchical discriminator, level 2 of the next and level 1 of the third (3.2.1) all see a
1/32 of the image's side."""


def check_rules(config: Config) -> None:
    """Check what no single setting can know.

    Raises:
        ConfigError: two settings are at odds, or a name is none that ships with the package.
    """
    _check_names(config)
    _check_method(config)
    _check_size(config)
    _check_training(config)
    _check_evaluation(config)


def nearest_size(size: tuple[int, int], multiple: int, least: int = 1) -> tuple[int, int]:
    """Return the nearest height and width that are multiples of `multiple` and no smaller than `least`."""
    lowest = -(-least // multiple)
    height, width = (max(lowest, 1, (side + multiple // 2) // multiple) * multiple for side in size)
    return height, width


def _check_names(config: Config) -> None:
    data = config.data
    if data.layout not in LAYOUTS:
        raise ConfigError(f"data.layout is '{data.layout}'{did_you_mean(data.layout, LAYOUTS)}")
    if data.label_space.endswith((".yaml", ".yml")):
        if not Path(data.label_space).is_file():
            raise ConfigError(f"data.label_space names '{data.label_space}', but there is no such file")
    elif data.label_space not in label_space_names():
        raise ConfigError(
            f"data.label_space is '{data.label_space}'{did_you_mean(data.label_space, label_space_names())}"
        )


def _check_method(config: Config) -> None:
    """Refuse settings that the method has no use for, and data that it cannot learn from."""
    if config.method == "lab2pix-v2":
        used = {
            "data.unpaired": config.data.unpaired,
            "generator.encoder": config.generator.encoder != "semantic",
            "generator.progressive": config.generator.progressive,
            "generator.coattention": config.generator.coattention,
            "loss.consistency": config.loss.consistency > 0,
            "loss.cycle_warmup": config.loss.cycle_warmup > 0,
            "loss.diversity": config.loss.diversity > 0,
        }
        _refuse(config, used, "which learns from pairs and knows it not")
        if config.loss.cycle > 0 and config.loss.perceptual == 0:
            raise ConfigError(
                "loss.cycle reads label maps in what the perceptual loss looks at, but loss.perceptual is 0; set "
                "loss.cycle=0 or loss.perceptual above 0"
            )
        if config.loss.nearest_of > 1 and config.generator.start == "label":
            raise ConfigError(
                "loss.nearest_of chooses among pictures of different noise, but generator.start is 'label', which "
                "takes none; set loss.nearest_of=1 or generator.start=noise"
            )
        return
    if not config.data.unpaired:
        raise ConfigError("data.unpaired is false, but method 'lab2pix-v1' learns without pairs; set it to true")
    used = {
        "loss.perceptual": config.loss.perceptual > 0,
        "loss.feature_matching": config.loss.feature_matching > 0,
        "loss.nearest_of": config.loss.nearest_of > 1,
    }
    _refuse(config, used, "which has no true photo to compare with")
    if config.loss.consistency > 0 and not config.generator.progressive:
        raise ConfigError(
            "loss.consistency compares outputs of neighbouring scales, but generator.progressive is false; "
            "set loss.consistency=0 or generator.progressive=true"
        )
    if config.generator.progressive and config.discriminator.scales != 3:
        raise ConfigError(
            f"discriminator.scales is {config.discriminator.scales}, but generator.progressive draws three images, "
            "each of which is judged; set discriminator.scales=3 or generator.progressive=false"
        )
    if config.loss.diversity > 0 and config.generator.start == "label":
        raise ConfigError(
            "loss.diversity asks noise for different pictures, but generator.start is 'label', which takes none; "
            "set loss.diversity=0 or generator.start=noise"
        )
    if config.loss.diversity > 0 and config.train.batch_size // config.train.accumulate < 2:
        raise ConfigError(
            "loss.diversity compares two pictures of a label map, but a part of a batch holds one "
            f"(train.batch_size={config.train.batch_size}, train.accumulate={config.train.accumulate}); raise "
            "train.batch_size, or set loss.diversity=0"
        )
    _check_encoder(config)


def _refuse(config: Config, used: dict[str, bool], why: str) -> None:
    for key, value in used.items():
        if value:
            raise ConfigError(
                f"{key} is set, but method is '{config.method}', {why}; leave it out or change the method"
            )


def _check_encoder(config: Config) -> None:
    """Check that V1's encoder, its label space and its layout all mean classes, or all mean lines."""
    data, generator, loss = config.data, config.generator, config.loss
    if generator.encoder == "semantic":
        if data.layout == "sketch" or data.label_space == "sketch":
            key = "layout" if data.layout == "sketch" else "label_space"
            raise ConfigError(
                f"data.{key} is 'sketch', but generator.encoder is 'semantic'; use a sketch preset such as "
                "v1-edges2shoes, or set generator.encoder=sketch"
            )
        if generator.start == "label":
            raise ConfigError(
                "generator.start is 'label', but the semantic label encoder starts from noise; set it to noise"
            )
        return
    if data.label_space != "sketch":
        raise ConfigError(
            f"generator.encoder is 'sketch', but data.label_space is '{data.label_space}'; set data.label_space=sketch"
        )
    if generator.doublings != 5:
        raise ConfigError(
            f"generator.doublings is {generator.doublings}, but the sketch encoder halves five times; set it to 5"
        )
    if loss.foreground_rate != 1:
        raise ConfigError(
            f"loss.foreground_rate is {loss.foreground_rate:g}, but sketches have no classes to enhance; set it to 1"
        )


def _check_size(config: Config) -> None:
    size, resize = config.data.size, config.data.resize
    multiple = 2**config.generator.doublings
    least = 2 * _FINEST_STRIDE if config.discriminator.kind == "hierarchical" else 1
    nearest = list(nearest_size(size, multiple, least))
    alone = config.train.batch_size // config.train.accumulate <= 1
    if alone and nearest == [multiple, multiple]:
        nearest[1] += multiple
    if any(side < 1 or side % multiple for side in size):
        raise ConfigError(
            f"data.size is {list(size)} but both sides must be multiples of {multiple}, 2 to the power of "
            f"generator.doublings={config.generator.doublings}; the nearest valid size is {nearest}"
        )
    if min(size) < least:
        raise ConfigError(
            f"data.size is {list(size)} but the hierarchical discriminators need both sides to be at least {least}, "
            f"or their deepest level normalises a single pixel; the smallest valid size is {nearest}"
        )
    if alone and size == (multiple, multiple):
        raise ConfigError(
            f"data.size is {list(size)}, which makes the generator's first scale one pixel, and a part of a batch "
            f"holds one sample, so its batch norm has nothing to average; set data.size={nearest} or "
            f"train.batch_size={2 * config.train.accumulate}"
        )
    if resize and (resize[0] < size[0] or resize[1] < size[1]):
        raise ConfigError(
            f"data.resize is {list(resize)} but must be at least data.size, {list(size)}, that is cropped from it"
        )


def _check_training(config: Config) -> None:
    train = config.train
    if train.epochs is None and train.steps is None:
        raise ConfigError("neither train.epochs nor train.steps is set; set one, such as train.epochs=100")
    if train.epochs is not None and train.steps is not None:
        raise ConfigError(
            f"train.epochs is {train.epochs} and train.steps is {train.steps} but only one may be set; "
            "set the other to null, such as train.epochs=null"
        )
    if train.batch_size % train.accumulate:
        raise ConfigError(
            f"train.batch_size is {train.batch_size} but must be divisible by train.accumulate, {train.accumulate}"
        )


def _check_evaluation(config: Config) -> None:
    """Check what is scored during training, so that no run stops at its first scores."""
    evaluation = config.evaluation
    for name in evaluation.features:
        if name.endswith((".pt2", ".onnx")):
            if not Path(name).is_file():
                raise ConfigError(f"evaluation.features names '{name}', but there is no such file")
        elif name not in FEATURE_NAMES:
            raise ConfigError(
                f"evaluation.features names '{name}', which is neither a known network nor an exported program "
                f"(.pt2, .onnx){did_you_mean(name, FEATURE_NAMES)}"
            )
    if config.train.evaluate_every is None:
        return
    if config.data.val_split is None:
        raise ConfigError(
            f"train.evaluate_every is {config.train.evaluate_every}, but data.val_split is null, so no label maps are "
            "held out to score; name a split, or set train.evaluate_every=null"
        )
    if evaluation.segmenter is not None and config.generator.encoder == "sketch":
        raise ConfigError(
            "evaluation.segmenter reads classes in pictures, but generator.encoder is 'sketch', and sketches have "
            "none; set evaluation.segmenter=null"
        )
    if evaluation.samples > 1 and config.generator.start == "label":
        raise ConfigError(
            f"evaluation.samples is {evaluation.samples}, but generator.start is 'label', so there is one picture per "
            "label map; set evaluation.samples=1"
        )
