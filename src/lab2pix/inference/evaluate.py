"""Evaluation of a trained run on its held-out label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig
from lab2pix.data.build import AnyDataset, build_dataset, is_paired, open_held_out_photos
from lab2pix.data.datasets import SampleSource
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.errors import ConfigError
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import build_report
from lab2pix.evaluation.held_out import evaluate_generator, held_out_noise, sample_key, style_origin, with_styles
from lab2pix.evaluation.pairing import listed
from lab2pix.evaluation.protocol import Protocol, load_networks
from lab2pix.evaluation.report import Report, ReportFiles
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.methods import get_method
from lab2pix.utils.distributed import init_distributed
from lab2pix.utils.files import write_png


def evaluate_run(
    run: str | Path,
    protocol: Protocol | None = None,
    *,
    samples: int = 1,
    count: int | None = None,
    split: str | None = None,
    name: str | None = None,
    device: str | None = None,
    pictures: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Evaluate the images that a run generates from its held-out label maps.

    Under torchrun the label maps are split over the processes; all processes return the same report.

    Args:
        run: a run folder, checkpoint, weights file or Hugging Face name.
        protocol: networks, batch size and seed; None: the defaults.
        samples: images per label map, with the noise of seeds `protocol.seed`, `protocol.seed + 1`, ...
        count: number of leading label maps to use; None: all held-out ones.
        split: split of the dataset; None: the validation split of the run.
        name: name of the method in the report; None: the name of the run.
        device: `cpu`, `cuda` or `mps`; None: the best one available.
        pictures: folder for the best, median and worst images; None: not written.
        on_progress: called with the number of finished label maps and their total.

    Raises:
        ConfigError: no held-out data, or settings that do not apply to this run.
        Lab2PixError: see `Synthesizer.load` and `load_networks`.
    """
    protocol = protocol or Protocol()
    protocol.check_for_run()
    with init_distributed(device) as dist:
        synthesizer = Synthesizer.load(run, device=dist.device)
        protocol = replace(protocol, alpha=synthesizer.config.data.alpha)
        synthesizer.noise_samples(protocol.seed, samples)
        origin = style_origin(synthesizer.sampling, protocol.style_from)
        dataset, photos = _held_out(synthesizer, split)
        total = len(dataset) if count is None else min(count, len(dataset))
        space = synthesizer.label_space
        if protocol.lpips is not None and samples == 1 and not is_paired(synthesizer.config.data):
            raise ConfigError("--lpips needs pairs, but this run is unpaired; omit it")
        if protocol.segmenter is not None and synthesizer.sampling.condition.source != "labels":
            raise ConfigError("the run generates from inputs without classes to segment; omit --segmenter")
        networks = load_networks(protocol, space)
        networks.to(dist.device)
        label_size = None if networks.segmenter is None else networks.segmenter.label_size
        labels = None if label_size is None else _held_out(synthesizer, split, label_size)[0]
        accumulator = MetricAccumulator(networks, samples, **protocol.scoring)

        def generate(batch: Batch, indices: Sequence[int], seed: int) -> Tensor:
            return _generate(synthesizer, with_styles(batch, indices, origin, photos), indices, seed)

        def draw_one(batch: Batch, index: int) -> Tensor:
            return generate(batch, [index], protocol.seed)[0]

        log = evaluate_generator(
            accumulator, dataset, generate, photos=photos, labels=labels, count=count, seed=protocol.seed,
            batch_size=protocol.batch_size, distributed=dist, on_progress=on_progress,
        )  # fmt: skip
        about = {
            "generated": {
                **{"run": str(run), "step": synthesizer.step, "seed": protocol.seed},
                **listed(map(dataset.name, range(total))),
            },
            **_sources(synthesizer, dataset, photos, total, count, split, protocol),
            "sample_sets": samples,
            "style_from": origin,
        }

        def conclude() -> Report:
            [size] = log.sizes
            title = name or synthesizer.config.name
            report = build_report(accumulator, log, title, about, protocol, list(size), dist, space)
            folder = None if pictures is None else Path(pictures)
            report.show(lambda key: _write_sample(synthesizer, dataset, int(key), draw_one, folder))
            return report

        return dist.run_on_main(conclude)


def _held_out(
    synthesizer: Synthesizer, split: str | None, size: tuple[int, int] | None = None
) -> tuple[AnyDataset, SampleSource | None]:
    """Open the held-out data of a run, at its own size or another, and the held-out photos of an unpaired run."""
    config = synthesizer.config
    data = config.data if split is None else config.data.model_copy(update={"val_split": split})
    data = data if size is None else data.model_copy(update={"size": size})
    own = config.data.val_split or "val"
    if data.format == "scenes" and split not in (None, own):
        raise ConfigError(f"run '{config.name}' has format 'scenes', whose only held-out split is '{own}'")
    if data.val_split is None:
        raise ConfigError(
            f"run '{config.name}' holds nothing out (data.val_split is null); name a part of its data with --split, or "
            "generate images and evaluate the folder"
        )
    where = (synthesizer.label_space, config.seed)
    paired = get_method(config.method).paired
    return build_dataset(data, "val", *where, paired=paired), open_held_out_photos(data, *where)


def _generate(synthesizer: Synthesizer, batch: Batch, indices: Sequence[int], seed: int) -> Tensor:
    shape = synthesizer.sampling.noise_shape(synthesizer.size) or (0,)
    noise = held_out_noise(seed, indices, shape)
    return float_to_uint8(synthesizer.generate(batch, noise))


def _sources(
    synthesizer: Synthesizer,
    dataset: AnyDataset,
    photos: SampleSource | None,
    total: int,
    count: int | None,
    split: str | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Return the protocol's entries for photos and label maps."""
    data, paired = synthesizer.config.data, is_paired(synthesizer.config.data)
    about, real, labels = _about(data, split), None, None
    if paired or photos is not None:
        names = map(dataset.name, range(total))
        if photos is not None:
            names = map(photos.name, range(len(photos) if count is None else min(count, len(photos))))
        real = {**about, **listed(names)}
    if protocol.segmenter is not None:
        space = {"label_space": synthesizer.label_space.name}
        labels = {**about, **space, **listed(map(dataset.name, range(total)))}
    return {"real": real, "labels": labels, "paired": paired}


def _about(data: DataConfig, split: str | None) -> dict[str, Any]:
    about = {"format": data.format, "root": data.root, "split": split or data.val_split}
    return {**about, "scenes_seed": data.scenes.seed} if data.format == "scenes" else about


def _write_sample(
    synthesizer: Synthesizer,
    dataset: AnyDataset,
    index: int,
    draw: Callable[[Batch, int], Tensor],
    folder: Path | None,
) -> ReportFiles:
    """Regenerate one image, and write it with its photo and label map unless `folder` is None."""
    batch = collate([dataset[(0, index)]])
    files: ReportFiles = {"name": batch.names[0]}
    if folder is None:
        return files

    def write(role: str, pixels: Tensor) -> str:
        target = folder / f"{sample_key(index)}-{role}.png"
        write_png(target, to_pil(pixels))
        return str(target)

    files["file"] = write("generated", draw(batch, index))
    files["label"] = write("label", synthesizer.sampling.condition.preview(batch)[0])
    if batch.image is not None:
        files["real"] = write("real", float_to_uint8(batch.image[0]))
    return files
