"""Networks of anybody's making, exported whole: a program (torch.export or ONNX) and a small JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lab2pix.errors import WeightsError
from lab2pix.utils.pretrained import file_sha256

__all__ = ["PROGRAM_SUFFIXES", "ExportedModel", "ProgramSettings", "Whole", "read_settings"]

PROGRAM_SUFFIXES = (".pt2", ".onnx")
"""Exported by `torch.export.save`, or ONNX."""

Three = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(strict=True)]  # true is no number


class ProgramSettings(BaseModel):
    """What a program wants to see; the JSON beside it.

    Attributes:
        size: height and width of its input in pixels; null: whatever the pictures have.
        range: which numbers 8-bit pictures become first.
        mean: what is taken away then, by colour.
        std: what that is divided by.
        bgr: whether it wants blue first, as networks that came from Caffe do.
        batch: how many pictures it takes at once; null: any number.
        output: which of its outputs counts, where it has several.
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
    """Read the JSON beside a program, `NAME.json` for `NAME.pt2` or `NAME.onnx`.

    Raises:
        WeightsError: it is missing, or says something else than `kind` holds.
    """
    beside = file.with_suffix(".json")
    try:
        return kind.model_validate(json.loads(beside.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"{beside} is missing: write there how {file.name} wants its pictures") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise WeightsError(
            f"{beside}: '{key}' is not right ({first['msg']}); valid: {', '.join(kind.model_fields)}"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside} cannot be read as JSON ({' '.join(str(error).split())}); mend it") from error


class ExportedModel:
    """An exported network that takes 8-bit pictures of any size.

    Args:
        file: `.pt2` or `.onnx`.
        settings: what it wants to see.

    Raises:
        WeightsError: the file is missing, or no such program.
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
        except WeightsError:
            raise
        except Exception as error:  # both readers answer junk with whatever they trip over
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{file} cannot be read as an exported program ({reason}); export it again") from error

    def to(self, device: torch.device) -> None:
        """Compute there; ONNX programs stay on the processor."""
        if self._module is not None:
            self._module.to(device)
            self.device = device

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Return its output, float32 on the processor, for `[N, 3, H, W]` uint8 RGB.

        Raises:
            WeightsError: the program fails on such pictures.
        """
        settings = self.settings
        wanted = pictures.float()
        if settings.size is not None and tuple(pictures.shape[-2:]) != settings.size:
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
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{self.file} cannot take pictures {list(part.shape)} ({reason}); set 'size' or 'batch' in "
                f"{self.file.with_suffix('.json').name} to what it was exported for"
            ) from error


def _open(file: Path) -> tuple[Callable[[Tensor], Any], torch.nn.Module | None]:
    """Return what runs a program, and its module where it is PyTorch's."""
    if file.suffix == ".pt2":
        module = torch.export.load(file).module()

        def run_module(part: Tensor) -> Any:
            outputs = module(part)
            if isinstance(outputs, dict):
                outputs = list(outputs.values())
            return outputs if isinstance(outputs, list | tuple) else [outputs]

        return run_module, module
    if file.suffix != ".onnx":
        raise WeightsError(f"{file} is no exported program; give one that ends in {' or '.join(PROGRAM_SUFFIXES)}")
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(f"{file} needs onnxruntime: install it with pip install 'lab2pix[onnx]'") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda part: session.run(None, {name: part.cpu().numpy()}), None
