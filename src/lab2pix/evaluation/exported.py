"""Exported networks: a program (torch.export or ONNX) with a small JSON file next to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lab2pix.errors import Lab2PixError, WeightsError
from lab2pix.utils.extras import import_extra
from lab2pix.utils.pretrained import file_sha256
from lab2pix.utils.text import reason_of

__all__ = ["PROGRAM_SUFFIXES", "ExportedModel", "ProgramSettings", "Whole", "read_settings"]

PROGRAM_SUFFIXES = (".pt2", ".onnx")
"""Suffixes of programs of `torch.export.save` and of ONNX."""

Three = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(strict=True)]  # refuses true and false


class ProgramSettings(BaseModel):
    """The input format of a program, as its JSON file says.

    Attributes:
        size: height and width of its input in pixels; null: the size of the images.
        range: range to which 8-bit values are scaled first.
        mean: mean that is subtracted then, by channel.
        std: standard deviation by which that is divided.
        bgr: channels in the order BGR, as in networks from Caffe.
        batch: images per batch; null: any number.
        output: index of the output to use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: tuple[Annotated[Whole, Field(ge=1)], Annotated[Whole, Field(ge=1)]] | None = None
    range: Literal["0-1", "0-255", "-1-1"] = "0-1"
    mean: Three = (0.0, 0.0, 0.0)
    std: Annotated[tuple[Positive, ...], Field(min_length=3, max_length=3)] = (1.0, 1.0, 1.0)
    bgr: bool = False
    batch: Annotated[Whole, Field(ge=1)] | None = None
    output: Annotated[Whole, Field(ge=0)] = 0


def read_settings(file: Path, kind: type[ProgramSettings]) -> Any:
    """Read the JSON file of a program, `NAME.json` for `NAME.pt2` or `NAME.onnx`.

    Raises:
        WeightsError: the file is missing or invalid.
    """
    info = file.with_suffix(".json")
    try:
        return kind.model_validate(json.loads(info.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"{info} is missing: describe the input of {file.name} in it") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise WeightsError(
            f"{info}: '{key}' is invalid ({first['msg']}); valid: {', '.join(kind.model_fields)}"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{info} cannot be read as JSON ({' '.join(str(error).split())}); correct it") from error


class ExportedModel:
    """An exported network that takes 8-bit images of any size.

    Raises:
        ConfigError: the extra `onnx` is not installed.
        WeightsError: the file is missing, or is not such a program.
    """

    def __init__(self, file: Path, settings: ProgramSettings) -> None:
        if not file.is_file():
            raise WeightsError(f"there is no file {file}; give an exported program ({' or '.join(PROGRAM_SUFFIXES)})")
        self.file = file
        self.settings = settings
        self.device = torch.device("cpu")
        self.sha256 = file_sha256(file)
        try:
            self._run, self._module = _open(file)
        except Lab2PixError:
            raise
        except Exception as error:  # both readers raise any error on damaged files
            raise WeightsError(
                f"{file} cannot be read as an exported program ({reason_of(error)}); export it again"
            ) from error

    def to(self, device: torch.device) -> None:
        """Move to a device; ONNX programs stay on the CPU."""
        if self._module is not None:
            self._module.to(device)
            self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the output, float32 on the CPU, for `[N, 3, H, W]` uint8 RGB.

        Raises:
            WeightsError: the program fails on such images.
        """
        settings = self.settings
        wanted = images.float()
        if settings.size is not None and tuple(images.shape[-2:]) != settings.size:
            wanted = F.interpolate(wanted, settings.size, mode="bicubic", antialias=True).clamp(0, 255)
        if settings.range != "0-255":
            wanted = wanted / 255 if settings.range == "0-1" else wanted / 127.5 - 1
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
        wanted = wanted.flip(1) if settings.bgr else wanted
        wanted = (wanted - mean) / std
        size = settings.batch or len(wanted)
        parts = []
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            missing = size - len(part)
            full = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
            parts.append(self._once(full)[: len(part)])
        return torch.cat(parts)

    def _once(self, part: Tensor) -> Tensor:
        try:
            outputs = self._run(part.to(self.device))
            return torch.as_tensor(outputs[self.settings.output]).float().cpu()
        except Exception as error:
            raise WeightsError(
                f"{self.file} cannot take images of shape {list(part.shape)} ({reason_of(error)}); set "
                f"'size' or 'batch' in {self.file.with_suffix('.json').name} to what it was exported for"
            ) from error


def _open(file: Path) -> tuple[Callable[[Tensor], Any], torch.nn.Module | None]:
    """Return a function that runs a program, and its module for PyTorch programs."""
    if file.suffix == ".pt2":
        module = torch.export.load(file).module()

        def run_module(part: Tensor) -> Any:
            outputs = module(part)
            if isinstance(outputs, dict):
                outputs = list(outputs.values())
            return outputs if isinstance(outputs, list | tuple) else [outputs]

        return run_module, module
    if file.suffix != ".onnx":
        raise WeightsError(f"{file} is not an exported program; give one that ends in {' or '.join(PROGRAM_SUFFIXES)}")
    onnxruntime = import_extra("onnxruntime", "onnx", str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda part: session.run(None, {name: part.cpu().numpy()}), None
