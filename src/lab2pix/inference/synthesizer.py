"""The one way from label maps to pictures, for the command line, the demo, evaluation and users."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.transforms import float_to_uint8, instance_edges, resize_image, resize_nearest
from lab2pix.errors import CheckpointError, ConfigError, DataError, OutputError
from lab2pix.inference import weights
from lab2pix.inference.label_input import LabelSource, read_ids, read_instance_ids, read_source_image
from lab2pix.inference.modes import InferenceMode, Mode, choose
from lab2pix.inference.weights import ModelInfo
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Sampling, build_sampling, generate_deterministic, latent_from_seed
from lab2pix.utils.distributed import choose_device

__all__ = ["LabelSource", "Synthesizer"]

_MODEL_CARD = """---
{{ card_data }}
---

# Pictures from label maps

A generator of [Lab2Pix](https://doi.org/10.1109/TPAMI.2022.3186752), trained with the package `lab2pix`. Weights are
safetensors, settings and classes are JSON; loading executes nothing.

```python
from lab2pix import Synthesizer

synthesizer = Synthesizer.load("ORG/NAME")
pictures = synthesizer("label.png", seed=0, samples=4)  # uint8 [4, 3, H, W]
```

`synthesizer.label_space` names the classes and their colours.
"""


class Synthesizer(
    ModelHubMixin,
    library_name="lab2pix",
    license="apache-2.0",
    pipeline_tag="image-to-image",
    tags=["lab2pix", "semantic-image-synthesis", "label-to-image"],
    model_card_template=_MODEL_CARD,
):
    """A trained generator with all that it needs to draw.

    A picture depends on the weights, the label map and the seed alone: not on the pictures drawn with it or before it.

    Args:
        generator: the network; its weights are put on the device, and it is put in evaluation mode.
        info: the run and the label space it was trained with.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None: the best there is.
        optimize: how to draw: see `optimize`.

    Attributes:
        generator: the network, in evaluation mode.
        mode: how pictures are drawn: `plain`, `fast` or `fast-bf16`.
        config: the run that made the weights.
        label_space: what the class ids mean.
        sampling: how images are made: what of, with which noise, at which sizes.
        step: optimiser steps the weights were trained for.
        size: height and width that it was trained at, to which label maps are resized unless asked otherwise.
        device: where it computes.
    """

    def __init__(
        self,
        generator: nn.Module,
        info: ModelInfo,
        *,
        device: str | torch.device | None = None,
        optimize: Mode = "plain",
    ) -> None:
        self.info = info
        self.config: RunConfig = info.config
        self.label_space: LabelSpace = info.label_space
        self.sampling: Sampling = build_sampling(info.config, info.label_space)
        self.step = info.step
        self.size = info.config.data.size
        self.device = choose_device(None if device is None else str(device))
        self.generator = generator.to(device=self.device, dtype=torch.float32).eval().requires_grad_(False)
        self.optimize(optimize)

    def optimize(self, mode: Mode = "auto") -> InferenceMode:
        """Choose how pictures are drawn from now on, by one of `lab2pix.inference.modes.MODES`.

        Call it again after changing the generator's weights: a fused generator works on a copy of them.

        Returns:
            What was chosen, with the seconds that were measured.

        Raises:
            ConfigError: no such mode, or a generator that cannot be fused where a fast mode is forced.
        """
        chosen = choose(self.generator, self.sampling, self.size, mode)
        self.mode, self._drawer = chosen.mode, chosen.generator
        return chosen

    # --- weights --------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        expect_label_space: str | None = None,
        optimize: Mode = "plain",
    ) -> Self:
        """Load weights.

        Args:
            source: a run folder (its newest checkpoint), a checkpoint or exported folder, a `model.safetensors` with
                `config.json` beside it, or a name on the Hugging Face hub, `org/name`.
            device: where to compute; None: the best there is.
            expect_label_space: a shipped label space or a YAML file that the weights must be trained for.
            optimize: how to draw: see `optimize`.

        Raises:
            CheckpointError: nothing there, damaged, of another format, or made for other classes.
            ConfigError: no such device, or no such way to draw.
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
        return cls(generator, info, device=device, optimize=optimize)

    def save(self, folder: str | Path, *, overwrite: bool = False, half: bool = False) -> Path:
        """Write `model.safetensors` and `config.json`, all that is needed to load this again; return the folder.

        Args:
            folder: where to; made where it is missing.
            overwrite: replace weights that are there.
            half: write weights in float16; they are float32 again when loaded.

        Raises:
            OutputError: it holds weights already, cannot be written, or a weight is too large for float16.
        """
        folder = Path(folder)
        if not overwrite and any((folder / name).exists() for name in (weights.WEIGHTS_FILE, weights.CONFIG_FILE)):
            raise OutputError(f"{folder} holds a model already; choose another folder, or pass overwrite=True")
        weights.write(folder, self.generator, self.info, half=half)
        return folder

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files that the hub's mixin uploads."""
        weights.write(save_directory, self.generator, self.info)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str | torch.device | None = None,
        optimize: Mode = "plain",
        **_: Any,
    ) -> Self:
        """Load what the hub's mixin was asked for: a folder, or a name on the hub."""
        file = weights.find(model_id) or weights.fetch(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls._from_file(file, device, optimize=optimize)

    # --- pictures -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        label: LabelSource,
        *,
        seed: int = 0,
        samples: int = 1,
        instances: Tensor | str | Path | None = None,
        keep_size: bool = False,
    ) -> Tensor:
        """Draw pictures of a label map.

        Args:
            label: class ids `[H, W]`, a picture or a file; see `read`.
            seed: decides the noise.
            samples: how many different pictures; the first ones stay the same when more are asked for.
            instances: instance map, for a generator that wants instance borders; see `read`.
            keep_size: draw at the label map's own size.

        Returns:
            `[samples, 3, H, W]` uint8 RGB.

        Raises:
            ConfigError: several pictures of a generator that draws one per label map, or a size that does not fit.
            DataError: a file that cannot be read.
            LabelError: ids or colours that the label space does not have.
        """
        batch = self.read(label, instances=instances, keep_size=keep_size)
        return self._generate_one(batch, self.noise_samples(seed, samples, batch.size))

    def interpolate(
        self,
        label: LabelSource,
        seed_a: int,
        seed_b: int,
        steps: int = 8,
        *,
        instances: Tensor | str | Path | None = None,
        keep_size: bool = False,
    ) -> Tensor:
        """Draw a label map on the way from one seed's picture to another's.

        Args:
            label: class ids `[H, W]`, a picture or a file; see `read`.
            seed_a: where the way begins.
            seed_b: where it ends.
            steps: how many pictures, both ends included.
            instances: instance map, for a generator that wants instance borders; see `read`.
            keep_size: draw at the label map's own size.

        Returns:
            `[steps, 3, H, W]` uint8 RGB.

        Raises:
            ConfigError, DataError, LabelError: as when it is called.
        """
        batch = self.read(label, instances=instances, keep_size=keep_size)
        return self._generate_one(batch, self.interpolate_noise(seed_a, seed_b, steps, batch.size))

    def read(
        self, label: LabelSource, *, instances: Tensor | str | Path | None = None, keep_size: bool = False
    ) -> Batch:
        """Return a label map, or an image to generate from, as a batch of one, ready for `generate`.

        Args:
            label: class ids `[H, W]` (0 to K-1, K for unknown) as tensor or array; a Pillow picture or a file, which
                are read as the label space spells them: ids, palette or colours. For a method that generates from
                images a file, a Pillow picture, an array `[H, W, C]` or a tensor `[C, H, W]`.
            instances: instance map `[H, W]` or its file, for a generator that wants instance borders; None: it gets
                the borders between classes.
            keep_size: draw at the label map's own size instead of the one trained at.

        Raises:
            ConfigError: the label map's own size is asked for and is no multiple of the generator's stride.
            DataError: a file that cannot be read, or an instance map of another size.
            LabelError: ids or colours that the label space does not have.
        """
        if self.sampling.condition.source == "images":
            return self.source_batch(read_source_image(label, self.config.data.source), keep_size=keep_size)
        ids = read_ids(label, self.label_space, self.config.data.sketch.lines)
        size = (int(ids.shape[0]), int(ids.shape[1])) if keep_size else self.size
        self.sampling.check_size(*size)
        edges = None
        if self.config.data.instance_edges:
            things = ids if instances is None else read_instance_ids(instances)
            if things.shape != ids.shape:
                raise DataError(
                    f"the label map is {tuple(ids.shape)} pixels (height, width) and its instance map "
                    f"{tuple(things.shape)}; give both the same size"
                )
            edges = instance_edges(resize_nearest(things, size))[None]
        return Batch(label=resize_label(ids, size, self.label_space)[None], edges=edges)

    def source_batch(self, source: Tensor, *, keep_size: bool = False) -> Batch:
        """Return an image to generate from, `[C, H, W]` in [-1, 1], as a batch of one, ready for `generate`.

        Raises:
            ConfigError: its own size is asked for and is no multiple of the generator's stride.
        """
        size = (int(source.shape[1]), int(source.shape[2])) if keep_size else self.size
        self.sampling.check_size(*size)
        return Batch(label=torch.empty(1, 0, 0, dtype=torch.int64), source=resize_image(source, size)[None])

    def generate(self, batch: Batch, noise: Tensor) -> Tensor:
        """Draw a batch in evaluation mode and full precision, so that its pictures do not depend on each other.

        Args:
            batch: label maps of one size, and instance borders if the generator wants them.
            noise: `[N, noise_dim]`.

        Returns:
            `[N, 3, H, W]` float32 in [-1, 1], on this synthesizer's device.

        Raises:
            CheckpointError: the weights are damaged so that pixels are not finite.
        """
        return self._generate(batch, noise)[0]

    def generate_pyramid(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        """Draw a batch at all the sizes that the generator makes in one pass (Eq. 17).

        Args:
            batch: label maps of one size.
            noise: `[N, noise_dim]`.

        Returns:
            X3, X2, X1: `[N, 3, H, W]`, `[N, 3, H/2, W/2]`, `[N, 3, H/4, W/4]`, else as `generate` returns them.

        Raises:
            CheckpointError: the weights are damaged so that pixels are not finite.
            ConfigError: the generator draws at one size only.
        """
        self.require_scales()
        return self._generate(batch, noise)

    def require_scales(self) -> None:
        """Raise ConfigError where the generator draws at one size only."""
        if self.sampling.outputs == 1:
            raise ConfigError(
                f"this generator ({self.config.name}) makes one image, not three sizes of it; leave out --scales, or "
                "take one of Lab2Pix-V1 with generator.progressive"
            )

    def _generate(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        self.generator.eval()
        given = noise.to(self.device) if self.sampling.noise_channels else None
        images = generate_deterministic(self._drawer, self.sampling, batch.to(self.device), given)
        if not all(bool(image.isfinite().all()) for image in images):
            raise CheckpointError(
                f"the weights of step {self.step} draw pixels that are not finite; take an earlier checkpoint"
            )
        return images

    def _generate_one(self, batch: Batch, noise: Tensor) -> Tensor:
        # One at a time: many pictures of one label map should not need more memory than one.
        return torch.cat([float_to_uint8(self.generate(batch, row[None])) for row in noise])

    # --- noise ----------------------------------------------------------------------------------------------------

    def noise(self, seed: int, sample: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """Return the noise of a seed's n-th image (z of Eq. 21), float32, the same on every machine.

        Args:
            seed: decides it.
            sample: n.
            size: height and width of the image, where the noise is a map; None: the size trained at.

        Returns:
            `[noise_dim]`, or the shape that `Sampling.noise_shape` says; `[0]` where the method takes no noise.
        """
        return latent_from_seed(seed, sample, self.sampling.noise_shape(size or self.size) or (0,))

    def noise_samples(self, seed: int, samples: int, size: tuple[int, int] | None = None) -> Tensor:
        """Return the noise of a seed's first images, `[samples, ...]`.

        Raises:
            ConfigError: no picture, or several of a generator that takes no noise.
        """
        if samples < 1:
            raise ConfigError(f"{samples} pictures per label map are none; ask for 1 or more")
        self._require_noise(samples > 1, "it draws one picture per label map, so samples must be 1")
        return torch.stack([self.noise(seed, sample, size) for sample in range(samples)])

    def interpolate_noise(self, seed_a: int, seed_b: int, steps: int, size: tuple[int, int] | None = None) -> Tensor:
        """Return noise on the way between two seeds' first images, `[steps, ...]`.

        The way is along a sphere: halfway along a straight line z would be shorter than any that was trained on.

        Raises:
            ConfigError: fewer than two steps, or a generator that takes no noise.
        """
        if steps < 2:
            raise ConfigError(f"interpolation in {steps} step(s) has no two ends; ask for 2 or more")
        return self.slerp(seed_a, seed_b, torch.linspace(0, 1, steps, dtype=torch.float64), size)

    def slerp(self, seed_a: int, seed_b: int, parts: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return noise at some places of that way, `[N, noise_dim]`.

        Args:
            seed_a: where the way begins.
            seed_b: where it ends.
            parts: `[N]` float64, which part of the way each is along it, 0 to 1.
            size: height and width of the images, where noise is a map; None: the size trained at.

        Raises:
            ConfigError: a generator that takes no noise.
        """
        self._require_noise(True, "it draws one picture per label map, so there is nothing to interpolate")
        shape = self.noise(seed_a, size=size).shape
        a, b = (self.noise(seed, size=size).double().flatten() for seed in (seed_a, seed_b))
        cosine = float(torch.dot(a, b) / (a.norm() * b.norm()))
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        if math.sin(angle) < 1e-6:  # the same seed twice
            return a.float().expand(len(parts), -1).reshape(len(parts), *shape).clone()
        t = parts[:, None]
        path = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / math.sin(angle)
        path[parts == 0], path[parts == 1] = a, b
        return path.float().view(len(parts), *shape)

    def _require_noise(self, wanted: bool, because: str) -> None:
        if wanted and not self.sampling.noise_channels:
            raise ConfigError(f"this generator ({self.config.name}) takes no noise: {because}")
