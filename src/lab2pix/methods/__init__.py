"""Method registry: built-in methods, methods registered by a program, and entry points of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import (
    Averaging,
    Losses,
    Method,
    OptimizerSpec,
    Phase,
    RandomSource,
    StepContext,
    always,
    every,
    require_images,
)
from lab2pix.methods.sampling import (
    Condition,
    Sampling,
    example_inputs,
    generate,
    generate_deterministic,
    generate_pyramid,
    latent_from_seed,
)
from lab2pix.methods.schedules import (
    Progress,
    constant,
    epoch_decay,
    late_epoch_decay,
    linear_decay,
    step_decay,
)

__all__ = [
    "Averaging",
    "Condition",
    "Losses",
    "Method",
    "OptimizerSpec",
    "Phase",
    "Progress",
    "RandomSource",
    "Sampling",
    "StepContext",
    "always",
    "backward",
    "build_generator",
    "build_method",
    "build_sampling",
    "constant",
    "epoch_decay",
    "every",
    "example_inputs",
    "frozen",
    "generate",
    "generate_deterministic",
    "generate_pyramid",
    "get_method",
    "late_epoch_decay",
    "latent_from_seed",
    "linear_decay",
    "method_names",
    "read_config",
    "register",
    "require_images",
    "step_decay",
]

ENTRY_POINTS = "lab2pix.methods"
"""Entry-point group for methods of other packages: `name = "package.module:Class"`."""

_BUILT_IN = {
    "cc-fpse": "cc_fpse:CCFPSE",
    "cut": "cut:CUT",
    "cyclegan": "cyclegan:CycleGAN",
    "dclgan": "dclgan:DCLGAN",
    "dp-gan": "dp_gan:DPGAN",
    "lab2pix-v1": "lab2pix_v1:Lab2PixV1",
    "lab2pix-v2": "lab2pix_v2:Lab2PixV2",
    "munit": "munit:MUNIT",
    "oasis": "oasis:OASIS",
    "pix2pix": "pix2pix:Pix2Pix",
    "pix2pixhd": "pix2pixhd:Pix2PixHD",
    "scan": "scan:SCAN",
    "spade": "spade:SPADE",
    "spap": "spap:SPAP",
    "tsit": "tsit:TSIT",
    "tsit-transfer": "tsit:TSITTransfer",
    "usis": "usis:USIS",
}
_REGISTERED: dict[str, type[Method]] = {}


def register(cls: type[Method]) -> type[Method]:
    """Register a method under its `name` in this process; a class decorator.

    Raises:
        ConfigError: the name is taken by another method.
    """
    if cls.name in _BUILT_IN or _REGISTERED.get(cls.name, cls) is not cls:
        raise ConfigError(f"a method called '{cls.name}' exists already; give {cls.__name__} another name")
    _REGISTERED[cls.name] = cls
    return cls


def method_names() -> list[str]:
    """Return the sorted names of all methods without importing them."""
    return sorted({*_BUILT_IN, *_REGISTERED, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def get_method(name: str) -> type[Method]:
    """Return the class of a method, importing it if needed.

    Raises:
        ConfigError: the name is unknown, or the package of the method cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        built_in: type[Method] = getattr(import_module(f"{__name__}.{module}"), attribute)
        return built_in
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            found = entry.load()
        except Exception as error:  # arbitrary errors of the other package
            raise ConfigError(f"method '{name}' ({entry.value}) cannot be imported: {error}") from error
        return register(found)
    raise ConfigError(f"method is '{name}'{did_you_mean(name, method_names())}")


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """Parse the configuration of a saved run with the `Config` class of its `method`.

    Raises:
        ConfigError: the method is unknown.
        TypeError: `values` is not a mapping.
        pydantic.ValidationError: a setting is unknown or has an invalid value.
    """
    if not isinstance(values, Mapping):
        raise TypeError("the settings, which are not a mapping")
    name = values.get("method", RunConfig().method)
    return get_method(str(name)).Config.model_validate(values)


def build_method(config: RunConfig, label_space: LabelSpace, *, pretrained: bool = True) -> Method:
    """Build the configured method with initial weights.

    Args:
        config: configuration of the run.
        label_space: label space of the class ids.
        pretrained: whether to load pretrained feature extractors; False is for benchmarks.

    Raises:
        WeightsError: the weights of a feature extractor are missing or have the wrong hash.
    """
    return get_method(config.method)(config, label_space, pretrained=pretrained)


def build_generator(config: RunConfig, label_space: LabelSpace) -> nn.Module:
    """Build the generator of the configured method with initial weights."""
    return get_method(config.method).build_generator(config, label_space)


def build_sampling(config: RunConfig, label_space: LabelSpace) -> Sampling:
    """Return the sampling of the configured method."""
    return get_method(config.method).build_sampling(config, label_space)
