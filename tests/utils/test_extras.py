"""Missing optional dependencies."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lab2pix.config.schema import DataConfig, SketchConfig
from lab2pix.data.sketches import find_edges, sketcher_of
from lab2pix.errors import ConfigError
from lab2pix.evaluation.features import load_features
from lab2pix.evaluation.metrics.image import LPIPS
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.extras import install_command
from lab2pix.web.study.report import compare_methods

SKETCH = LabelSpace.load("sketch")
FROM_PHOTOS = DataConfig(label_space="sketch", sketch=SketchConfig.model_validate({"from": "photo"}))


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("torchmetrics.functional.image.lpips", "metrics", lambda: LPIPS("alex")),
        ("torch_fidelity.feature_extractor_inceptionv3", "inception", lambda: load_features("inception")),
        ("transformers", "huggingface", lambda: load_segmenter("hf:org/name", SKETCH)),
        ("skimage", "sketches", lambda: sketcher_of(FROM_PHOTOS, SKETCH)),
        ("skimage.feature", "sketches", lambda: find_edges(torch.zeros(3, 8, 8, dtype=torch.uint8), 2.0)),
        ("scipy.stats", "web", lambda: compare_methods(np.array([[1, 2, 3], [1, 3, 2]]), "people")),
    ],
)
def test_missing_extra_is_named_in_one_sentence(
    module: str, extra: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    command = install_command(extra)
    with pytest.raises(ConfigError, match=re.escape(f"needs the extra '{extra}': {command}") + "$"):
        use()


def test_command_installs_the_requirements_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("dev", "docs"):
            assert shlex.split(install_command(extra)) == ["pip", "install", *requirements]
