"""Validation of settings for scores during training, and their defaults in older configurations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab2pix.config.schema import FEATURE_NAMES
from lab2pix.errors import ConfigError
from lab2pix.evaluation.exported import PROGRAM_SUFFIXES
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method, read_config
from lab2pix.recipes import load_config, to_yaml
from lab2pix.training.evaluation import check_best


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        (
            "v2-small",
            ["train.evaluate_every=9", "data.val_split=null"],
            "train.evaluate_every is 9, but data.val_split is null, so no label maps are held out to score; name a "
            "split, or set train.evaluate_every=null",
        ),
        (
            "v2-small",
            ["evaluation.features=[inceptoin]"],
            "evaluation.features names 'inceptoin', which is neither a known network nor an exported program "
            "(.pt2, .onnx); did you mean 'inception'?",
        ),
        ("v2-small", ["evaluation.count=1"], "evaluation.count is 1 but must be at least 2"),
        ("v2-small", ["evaluation.feature=[inception]"], "unknown setting 'evaluation.feature'; did you mean"),
    ],
)
def test_evaluation_config_errors_are_one_sentence(preset: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(preset, overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        (
            "v1-small-sketch",
            ["train.evaluate_every=9", "evaluation.segmenter=icnet"],
            "evaluation.segmenter segments classes, but the run generates from lines, which have none; set "
            "evaluation.segmenter=null",
        ),
        (
            "v2-small",
            ["train.evaluate_every=9", "evaluation.samples=2", "generator.input=label"],
            "evaluation.samples is 2, but the method takes no noise, so there is one image per input; set "
            "evaluation.samples=1",
        ),
    ],
)
def test_scores_that_the_method_cannot_have_are_refused(preset: str, overrides: list[str], message: str) -> None:
    config = load_config(preset, [*overrides, "generator.width=2"])
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_best(build_method(config, LabelSpace.load(config.data.label_space), pretrained=False))


@pytest.mark.parametrize("suffix", PROGRAM_SUFFIXES)
def test_exported_evaluation_networks_must_exist(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"own{suffix}"
    with pytest.raises(
        ConfigError, match=r"^evaluation.features names '.*own.*', but there is no such file or folder$"
    ):
        load_config("v2-small", [f"evaluation.features=[{file}]"])
    file.touch()
    assert load_config("v2-small", [f"evaluation.features=[{file}]"]).evaluation.features == (str(file),)


@pytest.mark.parametrize("kind", ["segmenter", "dinov2"])
def test_paths_of_feature_networks_must_exist(tmp_path: Path, kind: str) -> None:
    spec = f"{kind}:{tmp_path / 'own'}"
    with pytest.raises(ConfigError, match=r"names '.*own', but there is no such file or folder$"):
        load_config("v2-small", [f"evaluation.features=['{spec}']"])
    (tmp_path / "own").mkdir()
    assert load_config("v2-small", [f"evaluation.features=['{spec}']"]).evaluation.features == (spec,)


def test_disabled_evaluation_settings_conflict_with_nothing() -> None:
    config = load_config("v2-small", ["data.val_split=null", "evaluation.samples=2", "evaluation.segmenter=unet"])
    assert config.train.evaluate_every is None


@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_feature_networks_are_known_by_name(name: str) -> None:
    assert load_config("v2-small", [f"evaluation.features=[{name}]"]).evaluation.features == (name,)


def test_configs_without_evaluation_settings_still_load(tmp_path: Path) -> None:
    config = load_config("v2-small")
    stored: dict[str, Any] = yaml.safe_load(to_yaml(config))
    del stored["evaluation"], stored["train"]["evaluate_every"]
    assert read_config(stored) == config
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(stored), encoding="utf-8")
    assert load_config(file) == config
