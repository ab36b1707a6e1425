"""Time and memory of one image: plain and fused generators, and the exported program in other runtimes.

    python benchmarks/inference.py --threads 1 --out benchmarks/results/inference.json

The rows are the modes of `Synthesizer.optimize`, and the product's own ONNX export in ONNX Runtime and OpenVINO, where
these are installed. Generators have random weights, as time does not depend on them; `--models` adds trained ones.
Label maps have regions, as the time of a fused generator depends on how many of their 5x5 patches are distinct; the
share is printed. `new label map` is an image of a label map that was not seen before, `more seeds` a further image of
one, for which a fused generator uses its cache.

All rows take turns in one process, so that a drifting machine slows all of them alike. Seconds are processor time, or
wall-clock time on CUDA.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _environment import environment, in_turns, peak_allocated, seconds, write_json
from torch import Tensor, nn

from lab2pix import Synthesizer
from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo
from lab2pix.inference.export import export
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, generate_deterministic
from lab2pix.nn.fast import FusedGenerator, fuse
from lab2pix.nn.fast.inference.patches import unique_patches3x3
from lab2pix.recipes import load_config

RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")
Draw = Callable[[int], Tensor]
"""Returns the image of a seed."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["v2-cityscapes", "v1-cityscapes"])
    parser.add_argument("--models", nargs="*", default=[], help="trained models: names or folders")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"), help="of the presets")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="for all presets")
    parser.add_argument("--regions", type=int, default=48, help="regions of a label map")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


def synthesizers(args: argparse.Namespace) -> Iterator[tuple[str, Synthesizer]]:
    """Yield each preset with random weights, and each trained model, on the CPU."""
    height, width = args.size
    for preset in args.presets:
        settings = [f"data.size=[{height},{width}]", "data.instance_edges=false", *args.set]
        config = load_config(preset, settings)
        space = LabelSpace.load(config.data.label_space)
        torch.manual_seed(0)
        generator = build_generator(config, space)
        for module in generator.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
        yield preset, Synthesizer(generator, ModelInfo(config, space, 0), device="cpu")
    for model in args.models:
        yield model, Synthesizer.load(model, device="cpu")


def label_map(size: Sequence[int], classes: int, regions: int, seed: int = 0) -> Tensor:
    """Return ids `[1, H, W]`: regions around random points with uneven borders, of random classes."""
    height, width = size
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(regions, 2, generator=random)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"), -1)
    waves = F.interpolate(torch.randn(1, 2, 24, 24, generator=random), size=(height, width), mode="bicubic")[0]
    nearest = torch.cdist((grid + 0.015 * waves.permute(1, 2, 0)).view(-1, 2), points).argmin(1)
    return torch.randint(classes, (regions,), generator=random)[nearest].view(1, height, width)


def distinct_patches(ids: Tensor, classes: int) -> float:
    """Return the share of distinct 5x5 patches of a label map."""
    index, patches = unique_patches3x3(ids, classes)
    return len(unique_patches3x3(index, len(patches))[1]) / ids.numel()


def runtimes(synthesizer: Synthesizer, ids: Tensor, folder: Path, threads: int) -> Iterator[tuple[str, Draw]]:
    """Yield the exported program in each runtime that is installed."""
    installed = [name for name in RUNTIMES if find_spec(name.partition("-")[0]) is not None]
    if not installed or find_spec("onnx") is None:
        return
    file = export(synthesizer, folder / "generator.onnx").file

    def inputs(seed: int) -> dict[str, Any]:
        return {"label": ids.numpy(), "noise": synthesizer.noise(seed)[None].numpy()}

    for name in installed:
        if name == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            yield name, lambda seed, session=session: torch.from_numpy(session.run(None, inputs(seed))[0])
        else:
            import openvino

            hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in name else "f32"}
            program = openvino.compile_model(file, "CPU", hints)
            yield name, lambda seed, program=program: torch.from_numpy(program(inputs(seed))[0])


def measure(
    name: str, synthesizer: Synthesizer, args: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """Return a record per mode and runtime, and per kind of image."""
    ids = label_map(synthesizer.size, synthesizer.label_space.num_classes, args.regions)
    batch, plain = Batch(label=ids).to(device), synthesizer.generator.to(device)
    fused = {"fast": fuse(plain), "fast-bf16": fuse(plain, dtype=torch.bfloat16)}

    def draw(generator: nn.Module, seed: int) -> Tensor:
        noise = synthesizer.noise(seed)[None].to(device)
        return generate_deterministic(generator, synthesizer.sampling, batch, noise)[0].cpu()

    draws: dict[str, Draw] = {name: partial(draw, generator) for name, generator in {"plain": plain, **fused}.items()}
    with tempfile.TemporaryDirectory() as folder:
        if device.type == "cpu":
            draws |= dict(runtimes(synthesizer, ids, Path(folder), args.threads))
        reference = draws["plain"](0)
        calls: dict[tuple[str, str], Callable[[], Any]] = {}
        for row, of_seed in draws.items():
            calls[row, "new label map"] = partial(_uncached, of_seed, fused.get(row))
            if row in fused:
                calls[row, "more seeds"] = partial(of_seed, 1)
        taken = in_turns(calls, args.repeats, partial(seconds, device))  # type: ignore[arg-type]
        records = []
        for (row, kind), call in calls.items():
            record = {"model": name, "row": row, "kind": kind, "device": str(device), "seconds": taken[row, kind]}
            record |= {"faster": taken["plain", "new label map"] / taken[row, kind]}
            record |= {"difference": float((draws[row](0) - reference).abs().max())}
            if row in ("plain", *fused):
                record |= {"peak_mib": peak_allocated(call, device)}
            records.append(record)
    return records


def _uncached(draw: Draw, generator: FusedGenerator | None) -> Tensor:
    if generator is not None:
        generator.clear_cache()
    return draw(0)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as text, a line each."""
    lines = [f"{'':<18}{'row':<15}{'image of a':<15}{'s':>8}{'faster':>8}  {'differs':<9}{'MiB':>6}"]
    for record in records:
        line = f"{record['model']:<18}{record['row']:<15}{record['kind']:<15}{record['seconds']:>8.3f}"
        line += f"{record['faster']:>8.2f}  {record['difference']:<9.1e}"
        lines.append(line + (f"{record['peak_mib']:>6.0f}" if "peak_mib" in record else ""))
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write a JSON if asked to."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    records: list[dict[str, Any]] = []
    for name, synthesizer in synthesizers(args):
        share = distinct_patches(
            label_map(synthesizer.size, synthesizer.label_space.num_classes, args.regions),
            synthesizer.label_space.num_classes,
        )
        print(f"{name}: {share:.1%} of the label map's 5x5 patches are distinct")
        for device in [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]:
            found = measure(name, synthesizer, args, device)
            records += [record | {"distinct_patches": share} for record in found]
            print(table(found), flush=True)
    if not torch.cuda.is_available():
        print("No CUDA here: the rows of a GPU are skipped.")
    if args.out:
        settings = {"size": list(args.size), "set": args.set, "repeats": args.repeats}
        write_json(args.out, environment() | settings | {"rows": records})


if __name__ == "__main__":
    main()
