"""Authors' checkpoints made into folders that `Synthesizer.load` and `lab2pix generate` take."""

from __future__ import annotations

from pathlib import Path

from lab2pix.errors import CheckpointError, OutputError
from lab2pix.inference import weights
from lab2pix.inference.weights import ModelInfo
from lab2pix.interop.checkpoints import check_format, read_checkpoint
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted
from lab2pix.methods import get_method, method_names

__all__ = ["checkpoint_formats", "convert"]


def checkpoint_formats() -> dict[str, CheckpointFormat]:
    """Return all formats of checkpoints that a method converts, by name."""
    return {name: known for method in method_names() for name, known in get_method(method).checkpoint_formats().items()}


def convert(
    checkpoint: Path | str,
    form: str,
    out: Path | str,
    *,
    label_space: str | None = None,
    size: tuple[int, int] | None = None,
    num_upsamples: int | None = None,
    instance_edges: bool | None = None,
) -> Converted:
    """Write `model.safetensors` and `config.json` of an authors' generator; it draws as it did.

    Args:
        checkpoint: `latest_net_G.pth` or the like, or `.safetensors`; nothing in it is executed.
        form: one of `checkpoint_formats`.
        out: an empty folder, or one to be made.
        label_space: a shipped name or a YAML file; None: the one shipped space that fits.
        size: height and width of the pictures; None: as is usual for the label space.
        num_upsamples: how often the generator doubles its size, where the weights leave it open.
        instance_edges: whether it sees borders between instances, where the number of channels leaves it open.

    Returns:
        What was understood; printed, it tells the user.

    Raises:
        CheckpointError: the file cannot be read, is of another form, or its classes are not the label space's.
        ConfigError: no such form, or a size or number of upsamplings that the weights cannot have.
        LabelError: there is no such label space.
        OutputError: the folder holds something already, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not an empty folder; choose another one for the converted weights")
    path, formats = Path(checkpoint), checkpoint_formats()
    try:
        state = read_checkpoint(path)
        check_format(path, state, form, formats)
        options = ConversionOptions(label_space, size, num_upsamples, instance_edges)
        converted = formats[form].convert(path, state, options)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the weight {error}; take a whole checkpoint") from error
    except (IndexError, ZeroDivisionError, ValueError, RuntimeError) as error:  # whatever odd shapes lead to
        raise CheckpointError(
            f"{path} holds weights of shapes that no generator of format '{form}' has; check that it is complete"
        ) from error
    weights.write(out, converted.generator, ModelInfo(converted.config, converted.label_space, 0))
    return converted
