"""Conversion of the authors' checkpoints into model folders for `Synthesizer.load` and `lab2pix generate`."""

from __future__ import annotations

from pathlib import Path

from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.inference import weights
from lab2pix.inference.weights import ModelInfo
from lab2pix.interop.checkpoints import check_format, read_checkpoint
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted
from lab2pix.methods import get_method, method_names


def checkpoint_formats() -> dict[str, CheckpointFormat]:
    """Return the checkpoint formats of all methods by name."""
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
    reverse: bool = False,
) -> Converted:
    """Convert a generator checkpoint of the authors, and write `model.safetensors` and `config.json`.

    Args:
        checkpoint: a file such as `latest_net_G.pth`, or `.safetensors`; loading executes no code.
        form: one of `checkpoint_formats`.
        out: empty or new folder.
        label_space: shipped name or YAML file; None: the only shipped label space that fits.
        size: height and width of the images; None: the usual size of the label space.
        num_upsamples: number of 2x upsampling steps, if the weights do not determine it.
        instance_edges: whether the input has instance edges, if the number of channels does not determine it.
        reverse: whether to convert the generator from B to A, if the checkpoint holds both directions.

    Returns:
        The converted generator; `str` of it summarizes what was detected.

    Raises:
        CheckpointError: unreadable file, another format, or classes that do not match the label space.
        ConfigError: unknown format, or a size, direction or number of upsampling steps that contradicts the weights.
        LabelError: unknown label space.
        OutputError: the folder is not empty or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not an empty folder; choose another one for the converted weights")
    path, formats = Path(checkpoint), checkpoint_formats()
    try:
        state = read_checkpoint(path)
        check_format(path, state, form, formats)
        if reverse and not formats[form].both_directions:
            raise ConfigError(
                f"--reverse is given, but a checkpoint of format '{form}' has one direction; leave it out"
            )
        options = ConversionOptions(label_space, size, num_upsamples, instance_edges, reverse)
        converted = formats[form].convert(path, state, options)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the weight {error}; take a whole checkpoint") from error
    except (IndexError, ZeroDivisionError, ValueError, RuntimeError) as error:  # from unexpected shapes
        raise CheckpointError(
            f"{path} holds weights of shapes that no generator of format '{form}' has; check that it is complete"
        ) from error
    weights.write(out, converted.generator, ModelInfo(converted.config, converted.label_space, 0))
    return converted
