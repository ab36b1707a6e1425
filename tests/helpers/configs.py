"""Errors of configurations, and differences between them."""

from __future__ import annotations

from typing import Any

import pytest

from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError
from lab2pix.recipes import load_config
from lab2pix.training.run_folder import flatten


def error_of(source: Any, *overrides: str) -> str:
    """Return the sentence with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def difference(first: RunConfig, second: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, but for the name, with both values."""
    one, two = (dict(flatten(config.model_dump())) for config in (first, second))
    return {key: (one[key], two[key]) for key in one if one[key] != two[key] and key != "name"}
