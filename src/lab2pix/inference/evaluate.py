"""Judging what a run draws, and the one call that judges runs and folders alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig
from lab2pix.data.build import AnyDataset, build_dataset, is_paired, open_held_out_photos
from lab2pix.data.datasets import SampleSource
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.errors import ConfigError, OutputError
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import evaluate_folders, run_report
from lab2pix.evaluation.held_out import evaluate_generator, held_out_noise
from lab2pix.evaluation.page import save_report
from lab2pix.evaluation.pairing import listed
from lab2pix.evaluation.protocol import Protocol, check_weights, load_networks
from lab2pix.evaluation.report import Report, check_output_path
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext, init_distributed

__all__ = ["evaluate", "evaluate_run"]


def evaluate(
    run: str | Path | None = None,
    *,
    generated: str | Path | None = None,
    real: str | Path | None = None,
    labels: str | Path | None = None,
    label_space: str | None = None,
    segmenter: str | Path | None = None,
    features: Sequence[str] = ("efficientnet-lite0",),
    lpips: Literal["alex", "vgg"] | None = None,
    inception_weights: str | Path | None = None,
    lpips_weights: str | Path | None = None,
    samples: int = 1,
    size: tuple[int, int] | None = None,
    unpaired: bool = False,
    layout: str = "folder",
    split: str | None = None,
    count: int | None = None,
    allow_missing: bool = False,
    skip_broken: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    save_stats: str | Path | None = None,
    name: str | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge a folder of pictures made by anything, or what a run draws of its held-out label maps.

    Args:
        run: a run, checkpoint, weights file or hub name; or else
        generated: a folder of pictures.
        real: with `generated`: their photos, or statistics of photos.
        labels: with `generated`: their label maps.
        label_space: with `labels`: what these hold.
        segmenter: reads label maps in pictures; see `lab2pix.evaluation.segmenters.load_segmenter`.
        features: what the distances between sets look through; see `lab2pix.evaluation.features.load_features`.
        lpips: network of the perceptual distance between two pictures; None leaves it out.
        inception_weights: file of Inception's weights; None: the torch hub cache, or the net.
        lpips_weights: file of that network's ImageNet weights; None: likewise.
        samples: pictures per label map, each with other noise; scores are means over these sample sets.
        size: with `generated`: height and width to bring all pictures to; None: each picture's own.
        unpaired: with `generated`: the photos' names have nothing to do with the pictures'.
        layout: with `generated`: how photos and label maps lie.
        split: part of a data set; a run's own held-out part where left out.
        count: of a run: how many label maps, the first ones; None: all.
        allow_missing: with `generated`: leave out names that lack a partner.
        skip_broken: with `generated`: leave out files that cannot be read.
        batch_size: pictures at once; changes speed and memory only.
        seed: decides noise, and the subsets of the kernel distance.
        save_stats: with `generated`: file to keep the photos' statistics in.
        name: of the method, for the report.
        device: where to compute; None: the best there is.
        out: report to write (`.json`, with its page `.html` beside it).
        overwrite: replace a report that is there.
        on_progress: called with the label maps done and their number.

    Raises:
        Lab2PixError: settings at odds, files that are missing or do not fit; each says which.
    """
    if (run is None) == (generated is None):
        raise ConfigError("name what to judge: either a run, or a folder of pictures with --generated")
    place = None if out is None else check_output_path(out, overwrite=overwrite)
    protocol = Protocol(
        features=tuple(features),
        segmenter=None if segmenter is None else str(segmenter),
        lpips=lpips,
        inception_weights=None if inception_weights is None else Path(inception_weights),
        lpips_weights=None if lpips_weights is None else Path(lpips_weights),
        size=size,
        batch_size=batch_size,
        seed=seed,
        allow_missing=allow_missing,
        skip_broken=skip_broken,
    )
    if run is not None:
        _refuse_given(
            {
                **{"--real": real, "--labels": labels, "--label-space": label_space, "--size": size},
                **{"--layout": None if layout == "folder" else layout, "--unpaired": unpaired or None},
                **{"--save-stats": save_stats, "--allow-missing": allow_missing or None},
                "--skip-broken": skip_broken or None,
            }
        )
        check_weights(protocol)
        pictures = None if place is None else _check_pictures(place, overwrite)
        report = evaluate_run(
            run, protocol, samples=samples, count=count, split=split, name=name, device=device, pictures=pictures,
            on_progress=on_progress,
        )  # fmt: skip
    else:
        assert generated is not None
        if count is not None:
            raise ConfigError("--count belongs to a run; leave it out: all of --generated is judged")
        report = evaluate_folders(
            generated, real, labels=labels, label_space=label_space, protocol=protocol, samples=samples,
            unpaired=unpaired, layout=layout, split=split, save_stats=save_stats, name=name, device=device,
            on_progress=on_progress,
        )  # fmt: skip
    if place is not None and DistributedContext.is_first():
        save_report(report, place, overwrite=overwrite)
    return report


def _refuse_given(options: Mapping[str, object]) -> None:
    """Refuse options that say nothing about a run."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]} belongs to --generated: a run knows its own data; leave it out")


def _check_pictures(place: Path, overwrite: bool) -> Path:
    """Return the folder for the pictures of a run's report."""
    folder = place.with_name(f"{place.stem}-pictures")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} is there already; choose another name for the report, or --overwrite it")
    return folder


def evaluate_run(
    source: str | Path,
    protocol: Protocol,
    *,
    samples: int = 1,
    count: int | None = None,
    split: str | None = None,
    name: str | None = None,
    device: str | None = None,
    pictures: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge what a run draws of label maps that it has not learnt from.

    Args:
        source: a run, checkpoint, weights file or hub name.
        protocol: how to judge.
        samples: pictures per label map, with the noise of seeds `protocol.seed`, `protocol.seed + 1`, ...
        count: how many label maps, the first ones; None: all that are held out.
        split: part of the data set; None: the run's own held-out part.
        name: of the method, for the report; None: the run's.
        device: where to compute.
        pictures: folder for the best, median and worst pictures; None writes none.
        on_progress: called with the label maps done and their number.

    Raises:
        ConfigError: nothing is held out, or the generator draws one picture per label map.
        Lab2PixError: as `Synthesizer.load` and `load_networks` say.
    """
    with init_distributed(device) as team:
        synthesizer = Synthesizer.load(source, device=team.device)
        synthesizer.noise_samples(protocol.seed, samples)
        dataset, photos = _held_out(synthesizer, split)
        total = len(dataset) if count is None else min(count, len(dataset))
        space = synthesizer.label_space
        if protocol.lpips is not None and samples == 1 and not is_paired(synthesizer.config.data):
            raise ConfigError("--lpips compares pictures with photos of their own, and this run has none: leave it out")
        if protocol.segmenter is not None and synthesizer.config.generator.encoder == "sketch":
            raise ConfigError("a run on sketches has no classes that a segmenter could read; leave out --segmenter")
        networks = load_networks(protocol, space)
        networks.to(team.device)
        judge = MetricAccumulator(networks, samples, seed=protocol.seed)

        def drawn(batch: Batch, places: Sequence[int], seed: int) -> Tensor:
            return _generate(synthesizer, batch, places, seed)

        log = evaluate_generator(
            judge, dataset, drawn, photos=photos, count=count, seed=protocol.seed, batch_size=protocol.batch_size,
            team=team, on_progress=on_progress,
        )  # fmt: skip
        about = {
            "generated": {
                **{"run": str(source), "step": synthesizer.step, "seed": protocol.seed},
                **listed(map(dataset.name, range(total))),
            },
            **_sources(synthesizer, dataset, photos, total, count, split, protocol),
            "sample_sets": samples,
        }

        def conclude() -> Report:
            shown = _SampleWriter(synthesizer, dataset, protocol.seed, pictures)
            return run_report(judge, log, name or synthesizer.config.name, about, protocol, team, space, shown)

        return team.run_on_main(conclude)


def _held_out(synthesizer: Synthesizer, split: str | None) -> tuple[AnyDataset, SampleSource | None]:
    """Open the data that a run holds out, and its photos where they are no pairs."""
    config = synthesizer.config
    data = config.data if split is None else config.data.model_copy(update={"val_split": split})
    own = config.data.val_split or "val"
    if data.layout == "scenes" and split not in (None, own):
        raise ConfigError(f"run '{config.name}' draws its scenes, of which '{own}' is the only part that it holds out")
    if data.val_split is None:
        raise ConfigError(
            f"run '{config.name}' holds nothing out (data.val_split is null); name a part of its data with --split, or "
            "generate pictures and judge the folder"
        )
    where = (synthesizer.label_space, config.seed)
    return build_dataset(data, "val", *where), open_held_out_photos(data, *where)


def _generate(synthesizer: Synthesizer, batch: Batch, places: Sequence[int], seed: int) -> Tensor:
    noise = held_out_noise(seed, places, synthesizer.config.generator.noise_dim)
    return float_to_uint8(synthesizer.generate(Batch(label=batch.label, edges=batch.edges), noise))


def _sources(
    synthesizer: Synthesizer,
    dataset: AnyDataset,
    photos: SampleSource | None,
    total: int,
    count: int | None,
    split: str | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Return which photos and label maps the pictures were compared with."""
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
    about = {"layout": data.layout, "root": data.root, "split": split or data.val_split}
    return {**about, "scenes_seed": data.scenes.seed} if data.layout == "scenes" else about


class _SampleWriter:
    """Draws a picture of a report's sheet again, and writes it with its photo and its label map."""

    def __init__(self, synthesizer: Synthesizer, dataset: AnyDataset, seed: int, folder: Path | None) -> None:
        self.synthesizer = synthesizer
        self.dataset = dataset
        self.seed = seed
        self.folder = folder

    def __call__(self, key: str) -> tuple[str, dict[str, str]]:
        """Return a sample's name, and its files by role."""
        place = int(key)
        batch = collate([self.dataset[(0, place)]])
        [name] = batch.names
        if self.folder is None:
            return name, {"file": ""}
        self.folder.mkdir(parents=True, exist_ok=True)
        space: LabelSpace = self.synthesizer.label_space
        shown = {
            "file": _generate(self.synthesizer, batch, [place], self.seed)[0],
            "label": space.to_colors(batch.label[0]),
            **({} if batch.image is None else {"real": float_to_uint8(batch.image[0])}),
        }
        files = {}
        for role, pixels in shown.items():
            target = self.folder / f"{key}-{'generated' if role == 'file' else role}.png"
            to_pil(pixels).save(target)
            files[role] = str(target)
        return name, files
