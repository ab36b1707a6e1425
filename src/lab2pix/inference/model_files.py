"""Loading and saving of a model: folders, bundled models and the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import nn

from lab2pix.errors import CheckpointError, OutputError
from lab2pix.inference import weights
from lab2pix.inference.modes import Mode
from lab2pix.inference.weights import ModelInfo
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import expand_user

MODEL_CARD = """---
{{ card_data }}
---

# Images from label maps

A generator of [Lab2Pix](https://doi.org/10.1109/TPAMI.2022.3186752), trained with the package `lab2pix`. Weights are
safetensors, settings and classes are JSON; loading executes nothing.

```python
from lab2pix import Synthesizer

synthesizer = Synthesizer("ORG/NAME")
output = synthesizer("label.png", seed=0, samples=4)
output.images[0].save("image.png")  # Pillow images; output.tensor is uint8 [4, 3, H, W]
```

`synthesizer.label_space` names the classes and their colors.
"""


class ModelFiles:
    """Methods of `Synthesizer` that read and write its files; `ModelHubMixin` calls `_save_pretrained`.

    Attributes:
        generator: the network.
        info: configuration and label space that it was trained with.
    """

    generator: nn.Module
    info: ModelInfo

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        expect_label_space: str | None = None,
        optimize: Mode = "plain",
    ) -> Self:
        """Load a model.

        Args:
            source: a run folder (its newest checkpoint), a checkpoint or exported folder, a `model.safetensors` next
                to its `config.json`, the name of a bundled model, or `org/name` on the Hugging Face hub.
            device: device to run on; None: the best one available.
            expect_label_space: shipped label space or YAML file that the weights must have been trained with.
            optimize: inference mode; see `optimize`.

        Raises:
            CheckpointError: not found, damaged, of another format, or trained with another label space.
            ConfigError: unknown device or inference mode.
        """
        file = weights.find(source) or weights.fetch(str(source))
        return cls._from_file(file, device, expect_label_space, optimize)

    @classmethod
    def _from_file(
        cls,
        file: Path,
        device: str | torch.device | None,
        expect_label_space: str | None = None,
        optimize: Mode = "plain",
    ) -> Self:
        generator, info = weights.read(file)
        if expect_label_space is not None:
            expected = LabelSpace.load(expect_label_space)
            if expected.fingerprint() != info.label_space.fingerprint():
                raise CheckpointError(
                    f"{file} was trained with label space '{info.label_space.name}' of {info.label_space.num_classes} "
                    f"classes, not with '{expected.name}' of {expected.num_classes}; give weights made for that one"
                )
        return cls(generator, info, device=device, optimize=optimize)  # type: ignore[call-arg]

    def save(self, folder: str | Path, *, overwrite: bool = False, half: bool = False) -> Path:
        """Write `model.safetensors` and `config.json` for `load`; return the folder.

        With `half`, weights are stored in float16; loading converts them back.

        Raises:
            OutputError: the folder holds a model or cannot be written, or a weight overflows float16.
        """
        folder = expand_user(folder)
        if not overwrite and any((folder / name).exists() for name in (weights.WEIGHTS_FILE, weights.CONFIG_FILE)):
            raise OutputError(f"{folder} holds a model already; choose another folder, or pass overwrite=True")
        weights.write(folder, self.generator, self.info, half=half)
        return folder

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files that `ModelHubMixin` uploads."""
        weights.write(save_directory, self.generator, self.info)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: str | torch.device | None = None,
        optimize: Mode = "plain",
    ) -> Self:
        """Load a model as `load` does, with options of the Hugging Face hub.

        Raises:
            CheckpointError, ConfigError: see `load`.
        """
        name = pretrained_model_name_or_path
        file = weights.find(name) or weights.fetch(
            str(name),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls._from_file(file, device, optimize=optimize)
