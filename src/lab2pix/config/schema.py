"""Configuration schema of a run: pydantic models of the settings that all methods share."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "FEATURE_NAMES",
    "Alpha",
    "Beta",
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "LabelSpaceSource",
    "Light",
    "MonitorConfig",
    "RunConfig",
    "ScenesConfig",
    "Section",
    "SideConfig",
    "SketchConfig",
    "SourceConfig",
    "TrainConfig",
    "UserPath",
]

Light = Literal["sun", "any"]
"""Light of procedural scenes: set by the height of the sun, or random for any label map."""

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""Path of a file or folder; `~` and `~name` are replaced by the home folder."""

LabelSpaceSource = UserPath | dict[str, Any]
"""Name of a shipped label space, path of a YAML file, or the content of one."""

Alpha = Literal["drop", "white", "black"]
"""What becomes of transparency in photos."""

FEATURE_NAMES = ("inception", "efficientnet-lite0", "efficientnet-lite1")
"""Names of the built-in feature networks of `lab2pix.evaluation`."""


class Section(BaseModel):
    """Base class of configuration sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScenesConfig(Section):
    """Procedural landscapes of format `scenes`, which needs no files."""

    train_count: int = Field(2000, ge=1, description="How many different scenes to train on.")
    val_count: int = Field(64, ge=1, description="How many scenes to hold out.")
    seed: int = Field(0, ge=0, description="Which world the scenes are drawn from.")
    light: Light = Field(
        "sun",
        description="What light scenes lie in: as the height of their sun says, or any under any label map.",
    )


class SideConfig(Section):
    """One domain of an unpaired dataset: a folder of label maps or of photos."""

    root: UserPath | None = Field(None, description="The folder; null: as `data.format` and `data.root` say.")


class SourceConfig(SideConfig):
    """Source images of image-to-image translation (`data.input: images`)."""

    channels: int = Field(
        3, ge=1, description="Channels that the method sees; 1 turns color into gray, 3 takes gray three times."
    )
    range: tuple[float, float] | None = Field(
        None,
        description="Values of files that become -1 and 1; null: 0 to the largest of 8 or 16 bits, or to 1.",
    )


class SketchConfig(Section):
    """Source of line drawings (label space `sketch`)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, validate_by_alias=True
    )

    from_: Literal["files", "photo", "labels"] = Field(
        "files",
        alias="from",
        description="Files as they are, edges found in the photos, or the borders between classes of label maps.",
    )
    lines: Literal["auto", "dark", "light"] = Field(
        "auto", description="Which pixels of a file are lines; auto: the rarer ones of the file."
    )
    label_space: LabelSpaceSource | None = Field(
        None, description="Label space of the label maps that borders are taken from."
    )
    sigma: float = Field(2.0, gt=0, description="Blur before edges are looked for in a photo, in pixels at `size`.")


class DataConfig(Section):
    """Dataset location, format and preprocessing."""

    format: str = Field("folder", description="How the files lie on disk; `lab2pix data formats` lists them.")
    root: UserPath | None = Field(
        None, description="The data set's folder, relative to where lab2pix is started; scenes need none."
    )
    input: Literal["labels", "images"] = Field(
        "labels", description="What images are generated from: label maps and line drawings, or other images."
    )
    label_space: LabelSpaceSource = Field(
        "scenes", description="A shipped label space or a YAML file, whose content the run keeps."
    )
    train_split: str | None = Field("train", description="Sub-folder or split to train on; null: no splits.")
    val_split: str | None = Field("val", description="Split to hold out for samples and scores; null: none.")
    size: tuple[int, int] = Field((256, 256), description="Height and width that the networks see, in pixels.")
    resize: tuple[int, int] | None = Field(
        None, description="Height and width to resize to before a random crop to `size`; null: resize to `size`."
    )
    alpha: Alpha = Field(
        "drop",
        description="Background of photos with transparency: white or black; drop shows the colors hidden there.",
    )
    flip: bool = Field(True, description="Mirror left and right at random, label and photo together.")
    instance_edges: bool = Field(False, description="Append a channel that marks the borders between instances.")
    labels: SideConfig = SideConfig()
    images: SideConfig = SideConfig()
    source: SourceConfig = SourceConfig()
    sketch: SketchConfig = SketchConfig()
    workers: int = Field(0, ge=0, description="Processes that read files beside the training; 0: the training itself.")
    scenes: ScenesConfig = ScenesConfig()

    @property
    def inputs_root(self) -> str | None:
        """Separate folder of label maps or source images, if set."""
        return (self.source if self.input == "images" else self.labels).root


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of Adam's moment estimates."""


class TrainConfig(Section):
    """Training duration, batch size, precision and initialization."""

    batch_size: int = Field(
        1, ge=1, description="Samples per optimiser step, over all processes and accumulated parts."
    )
    epochs: int | None = Field(None, ge=1, description="How often to see the whole set; give this or `steps`.")
    steps: int | None = Field(None, ge=1, description="How many optimiser steps; give this or `epochs`.")
    accumulate: int = Field(1, ge=1, description="Parts a batch is split into to save memory.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Number format of the forward passes.")
    channels_last: bool = Field(False, description="Memory order that many processors convolve faster in.")
    compile: bool = Field(False, description="Make programs of the networks by torch.compile at the first step.")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="Average the generator's weights; null: off.")
    init_from: UserPath | None = Field(
        None,
        description="A run, checkpoint or exported model whose weights to start from, wherever names and shapes agree; "
        "null: random weights.",
    )
    max_minutes: float | None = Field(None, gt=0, description="End the run after so many minutes; null: no limit.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between scores of the evaluator on held-out label maps; null: off."
    )


class EvaluationConfig(Section):
    """Evaluation during training (`train.evaluate_every`), with the scores of `lab2pix evaluate`."""

    features: tuple[UserPath, ...] = Field(
        ("efficientnet-lite0",),
        description="What the Fréchet and kernel distances look through: inception (FID, KID), efficientnet-lite0, "
        "efficientnet-lite1, or exported programs (.pt2, .onnx).",
    )
    segmenter: UserPath | None = Field(
        None,
        description="Reads label maps in pictures for PPA, PCA and C-IoU: a folder of `lab2pix segmenter train`, an "
        "exported program or hf:NAME; null: leaves these scores out.",
    )
    count: int = Field(256, ge=2, description="How many held-out label maps, the first ones; fewer where there are.")
    samples: int = Field(1, ge=1, description="Pictures per label map, each with other noise.")
    batch_size: int = Field(8, ge=1, description="Pictures drawn at once; changes speed and memory only.")
    inception_weights: UserPath | None = Field(
        None, description="File of Inception's weights; null: the torch hub cache, or the net."
    )


class CheckpointConfig(Section):
    """Checkpoint interval and retention."""

    every: int = Field(1000, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="How many of the latest stay.")
    best: str | None = Field(
        None,
        description="Score by which the best stays as well: one of the method's, such as `perceptual`, or one that "
        "`train.evaluate_every` takes, such as `ciou`.",
    )


class MonitorConfig(Section):
    """Logs, sample sheets and TensorBoard files during training."""

    log_every: int = Field(10, ge=1, description="Steps between lines of the log.")
    sample_every: int = Field(500, ge=1, description="Steps between sample sheets, loss plots and validation scores.")
    samples: int = Field(8, ge=1, description="Label maps on the sample sheet.")
    tensorboard: bool = Field(True, description="Write TensorBoard files where the package is installed.")


class RunConfig(Section):
    """Settings common to all runs; the `Config` class of a method adds its own sections.

    Attributes:
        takes_images: whether the method can generate from images (`data.input: images`).
    """

    takes_images: ClassVar[bool] = False

    name: str = Field("run", description="What the run is called.")
    method: str = Field("lab2pix-v2", description="Which system; it decides which further sections there are.")
    seed: int = Field(0, ge=0, description="Decides every random number of the run.")
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()

    def check_rules(self) -> None:
        """Check the settings of the method against each other.

        Raises:
            ConfigError: two settings conflict.
        """

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check the number of samples per forward pass, for example for batch norm.

        Args:
            samples: samples of one micro-batch in one process.
            advice: how to increase it, as the end of an error's sentence.

        Raises:
            ConfigError: the method cannot train on so few samples.
        """
