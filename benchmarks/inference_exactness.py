"""How far a trained model's prepared ways to draw differ from its network as written, over scenes that no training saw
and over label maps of each class alone.

    python benchmarks/inference_exactness.py scenes --count 60 --out benchmarks/results/inference_exactness.json

Values lie from -1 to 1. `bf16 throughout` is `prepare(generator, dtype=torch.bfloat16)`, without the blocks in float32
that `fast-bf16` takes. Seconds are the processor's own, all threads, of a label map seen for the first time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _environment import environment, write_json
from lab2pix.nn.prepared import PreparedGenerator, prepare
from torch import nn

from lab2pix import Synthesizer
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.inference.modes import choose
from lab2pix.methods import generate_deterministic


def measure(synthesizer: Synthesizer, world: int, first: int, count: int) -> list[dict[str, Any]]:
    """Return one row per way to draw."""
    config, space, generator = synthesizer.config, synthesizer.label_space, synthesizer.generator
    chosen = {mode: choose(generator, config, space, mode) for mode in ("plain", "fast", "fast-bf16")}
    networks: dict[str, nn.Module] = {mode: choice.generator for mode, choice in chosen.items()}
    networks["bf16 throughout"] = prepare(generator, dtype=torch.bfloat16)
    seconds: dict[str, list[float]] = {way: [] for way in networks}
    differences: dict[str, list[torch.Tensor]] = {way: [] for way in networks}
    labels = [draw_scene(world, first + index, synthesizer.size)[1] for index in range(count)]
    labels += [np.full_like(labels[0], label) for label in range(space.num_classes)]
    for index, label in enumerate(labels):
        batch, noise = synthesizer.read(label), synthesizer.noise(index)
        plain = None
        for way, network in networks.items():
            if isinstance(network, PreparedGenerator):
                network.forget()
            start = time.process_time()
            image = generate_deterministic(network, config, space, batch, noise[None])[0]
            seconds[way].append(time.process_time() - start)
            plain = image if plain is None else plain
            differences[way].append((image - plain).abs())
    rows = []
    for way in networks:
        every = torch.stack(differences[way])
        error = float(every.square().flatten(1).mean(1).max())
        row: dict[str, Any] = {
            "way": way,
            "largest": float(every[:count].max()),
            "largest_alone": float(every[count:].max()),
            "beyond": float((every > 3e-2).float().mean()),
        }
        row |= {"lowest_psnr": 10 * float(torch.log10(torch.tensor(4 / error))) if error else None}
        rows.append(row | {"seconds": statistics.median(seconds[way][:count])})
        if way in chosen:
            rows[-1]["blocks_in_float32"] = chosen[way].in_float32
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return what is printed."""
    lines = [f"{'way':<18}{'largest':>10}{'alone':>10}{'>3e-2':>10}{'PSNR':>7}{'s':>8}{'blocks in float32':>20}"]
    for row in rows:
        psnr = "" if row["lowest_psnr"] is None else f"{row['lowest_psnr']:.0f}"
        line = f"{row['way']:<18}" + "".join(f"{row[key]:>10.1e}" for key in ("largest", "largest_alone", "beyond"))
        line += f"{psnr:>7}{row['seconds']:>8.3f}"
        lines.append(line + f"{row.get('blocks_in_float32', ''):>20}")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="trained on scenes: a run, a weights folder, or the one that comes along")
    parser.add_argument("--world", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--first", type=int, default=123_456, help="index of the first scene, one that no training saw")
    parser.add_argument("--count", type=int, default=60, help="scenes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    rows = measure(Synthesizer.load(args.model, device="cpu"), args.world, args.first, args.count)
    print(table(rows))
    if args.out:
        write_json(args.out, environment() | {"first": args.first, "count": args.count, "rows": rows})


if __name__ == "__main__":
    main()
