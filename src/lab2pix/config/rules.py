"""Cross-field validation of a configuration."""

from __future__ import annotations

from pathlib import Path

from lab2pix.config.schema import FEATURE_NAMES, FEATURE_PREFIXES, RunConfig
from lab2pix.config.sizes import can_pad, nearest_size
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.utils.registry import DATASET_FORMATS, is_yaml, label_space_names


def check_rules(config: RunConfig) -> None:
    """Check settings against each other, and names against what the package provides.

    Raises:
        ConfigError: two settings conflict, or a name is unknown.
    """
    _check_names(config)
    _check_training(config)
    _check_evaluation(config)
    config.check_rules()
    samples = config.train.batch_size // config.train.accumulate
    config.check_samples_per_pass(samples, f"set train.batch_size={2 * config.train.accumulate} or more")


def check_size(config: RunConfig, reason: str, *, squares: int = 1) -> None:
    """Check that reflection can pad a training size to one that the networks of a method take.

    Args:
        config: configuration of the run; `size_rule` says which sizes the networks take.
        reason: settings that decide this, for the message.
        squares: smallest area of the size that the message suggests, in squares of side `multiple`: 1 or 2.

    Raises:
        ConfigError: a side is too short; the message has the nearest valid size.
    """
    size, (multiple, least) = config.data.size, config.size_rule
    if can_pad(size, multiple, least):
        return
    raise ConfigError(
        f"data.size is {list(size)} (height, width), which cannot be padded to the multiples of {multiple} of at least "
        f"{least} pixels that {reason} needs; the nearest valid size is "
        f"{list(nearest_size(size, multiple, least, squares))}"
    )


def squares_per_image(config: RunConfig, num_upsamples: int) -> int:
    """Return the smallest area that `check_first_scale` accepts, in squares of the divisor of valid sides."""
    alone = config.train.batch_size // config.train.accumulate == 1
    return 2 if alone and config.size_rule[0] == 2**num_upsamples else 1


def check_first_scale(config: RunConfig, num_upsamples: int, samples: int, advice: str) -> None:
    """Check that batch norm at a generator's first scale has more than one value per channel.

    Args:
        config: configuration of the run; `padded_size` is the size of the images.
        num_upsamples: how often the generator doubles its first scale.
        samples: samples per forward pass.
        advice: how to increase them, as the end of an error's sentence.

    Raises:
        ConfigError: it has one.
    """
    multiple = 2**num_upsamples
    if samples == 1 and config.padded_size == (multiple, multiple):
        raise ConfigError(
            f"data.size is {list(config.data.size)}, which makes the generator's first scale one pixel, and a "
            "forward pass holds one sample, so its batch norm has nothing to average; set data.size="
            f"{[multiple, 2 * multiple]}, or {advice}"
        )


def _check_names(config: RunConfig) -> None:
    data = config.data
    if data.format not in DATASET_FORMATS:
        raise ConfigError(f"data.format is '{data.format}'{did_you_mean(data.format, DATASET_FORMATS)}")
    if data.input == "images" and not config.takes_images:
        raise ConfigError(
            f"data.input is 'images', but method '{config.method}' generates from label maps; set data.input=labels or "
            "choose a method such as pix2pix"
        )
    space = data.label_space
    if isinstance(space, str) and not is_yaml(space) and space not in label_space_names():
        raise ConfigError(f"data.label_space is '{space}'{did_you_mean(space, label_space_names())}")


def _check_training(config: RunConfig) -> None:
    train, size, resize = config.train, config.data.size, config.data.resize
    if resize and (resize[0] < size[0] or resize[1] < size[1]):
        raise ConfigError(
            f"data.resize is {list(resize)} but must be at least data.size, {list(size)}, that is cropped from it"
        )
    if config.data.repeat_threshold and config.data.input == "images":
        raise ConfigError(
            "data.repeat_threshold balances classes of label maps, but data.input is 'images'; set it to 0"
        )
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


def _check_evaluation(config: RunConfig) -> None:
    """Check the settings of scoring during training, so that a run fails at the start and not at its first scores."""
    evaluation = config.evaluation
    for name in evaluation.features:
        path = name.partition(":")[2] if name.startswith(FEATURE_PREFIXES) else name
        if path != name or name.endswith((".pt2", ".onnx")):
            if not Path(path).exists():
                raise ConfigError(f"evaluation.features names '{path}', but there is no such file or folder")
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
