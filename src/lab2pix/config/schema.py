"""Configuration schema of a run: pydantic models of the settings that all methods share."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lab2pix.config.sizes import padded_size

Light = Literal["sun", "any"]
"""Light of procedural scenes: set by the height of the sun, or random for any label map."""

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""Path of a file or folder; `~` and `~name` are replaced by the home folder."""

LabelSpaceSource = UserPath | dict[str, Any]
"""Name of a shipped label space, path of a YAML file, or the content of one."""

Alpha = Literal["drop", "white", "black"]
"""What becomes of transparency in photos."""

FEATURE_NAMES = ("inception", "efficientnet-lite0", "efficientnet-lite1", "dinov2")
"""Names of the built-in feature networks of `lab2pix.evaluation`."""
FEATURE_PREFIXES = ("dinov2:", "segmenter:")
"""Beginnings of names of feature networks that a path follows: weights of DINOv2, or the folder of a segmenter."""


class Section(BaseModel):
    """Base class of configuration sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScenesConfig(Section):
    """Procedural landscapes of format `scenes`, which needs no files."""

    train_count: int = Field(2000, ge=1, description="Number of training scenes.")
    val_count: int = Field(64, ge=1, description="Number of held-out scenes.")
    seed: int = Field(0, ge=0, description="Seed of the scenes.")
    light: Light = Field(
        "sun",
        description="Light of the scenes: by the height of the sun, or any light for any label map.",
    )


class SideConfig(Section):
    """One domain of an unpaired dataset: a folder of label maps or of photos."""

    root: UserPath | None = Field(None, description="Folder; null: given by `data.format` and `data.root`.")


class SourceConfig(SideConfig):
    """Source images of image-to-image translation (`data.input: images`)."""

    channels: int = Field(3, ge=1, description="Channels of the input; 1 converts color to gray, 3 repeats gray.")
    range: tuple[float, float] | None = Field(
        None,
        description="File values that are mapped to -1 and 1; null: 0 and the maximum of 8 or 16 bits, or 1.",
    )


class SketchConfig(Section):
    """Source of line drawings (label space `sketch`)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, validate_by_alias=True
    )

    from_: Literal["files", "photo", "labels"] = Field(
        "files",
        alias="from",
        description="Files as they are, edges detected in photos, or class borders of label maps.",
    )
    lines: Literal["auto", "dark", "light"] = Field(
        "auto", description="Which pixels of a file are lines; auto: the less frequent ones."
    )
    label_space: LabelSpaceSource | None = Field(
        None, description="Label space of the label maps whose class borders are used."
    )
    sigma: float = Field(
        2.0, gt=0, description="Standard deviation of the blur before edge detection, in pixels at `size`."
    )


class DataConfig(Section):
    """Dataset location, format and preprocessing."""

    format: str = Field("folder", description="Dataset format; see `lab2pix data formats`.")
    root: UserPath | None = Field(
        None, description="Folder of the dataset, relative to the working directory, or a URL (format `shards`)."
    )
    input: Literal["labels", "images"] = Field(
        "labels", description="Type of input: label maps and line drawings, or images."
    )
    label_space: LabelSpaceSource = Field(
        "scenes", description="Label space, by name or as a YAML file, whose content the run keeps."
    )
    train_split: str | None = Field("train", description="Training split or subfolder; null: no splits.")
    val_split: str | None = Field("val", description="Held-out split for samples and scores; null: none.")
    size: tuple[int, int] = Field((256, 256), description="Image height and width in pixels.")
    resize: tuple[int, int] | None = Field(
        None, description="Height and width to resize to before a random crop to `size`; null: resize to `size`."
    )
    alpha: Alpha = Field(
        "drop",
        description="Background of photos with transparency: white or black; drop shows the colors hidden there.",
    )
    flip: bool = Field(True, description="Random horizontal flip of label map and image.")
    repeat_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Repeat factor sampling (Gupta et al., 2019): images with a class that is in less than this share "
        "of all training images are drawn more often, by the square root; 0: all equally often.",
    )
    instance_edges: bool = Field(False, description="Append an input channel of instance boundaries.")
    labels: SideConfig = SideConfig()
    images: SideConfig = SideConfig()
    source: SourceConfig = SourceConfig()
    sketch: SketchConfig = SketchConfig()
    workers: int = Field(0, ge=0, description="Data loader processes; 0: load in the training process.")
    scenes: ScenesConfig = ScenesConfig()

    @property
    def inputs_root(self) -> str | None:
        """Separate folder of label maps or source images, if set."""
        return (self.source if self.input == "images" else self.labels).root


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of Adam's moment estimates."""


class TrainConfig(Section):
    """Training duration, batch size, precision and initialization."""

    batch_size: int = Field(1, ge=1, description="Samples per optimizer step, over all processes and micro-batches.")
    epochs: int | None = Field(None, ge=1, description="Number of epochs; give this or `steps`.")
    steps: int | None = Field(None, ge=1, description="Number of optimizer steps; give this or `epochs`.")
    accumulate: int = Field(1, ge=1, description="Number of micro-batches per batch, to save memory.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision of forward passes.")
    channels_last: bool = Field(False, description="Channels-last memory format, which is faster on many devices.")
    compile: bool = Field(False, description="Compile the networks with torch.compile.")
    threads: int | None = Field(
        None,
        ge=1,
        description="Number of CPU threads of a process; null: that of OMP_NUM_THREADS, or else the processors that "
        "other programs leave free when the run starts.",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decay of the exponential moving average of the generator's weights; null: off."
    )
    init_from: UserPath | None = Field(
        None,
        description="Run, checkpoint or exported model to initialize weights from, where names and shapes match; "
        "weights of classes are matched by class name; null: random weights.",
    )
    init_classes: dict[str, str] = Field(
        {},
        description="Class of `init_from` whose weights a class starts from, where the names differ, such as "
        "`{lava: rock}`; other new classes start from the mean of all.",
    )
    max_minutes: float | None = Field(None, gt=0, description="Maximum duration in minutes; null: no limit.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between evaluations on held-out label maps; null: off."
    )


class EvaluationConfig(Section):
    """Evaluation during training (`train.evaluate_every`), with the scores of `lab2pix evaluate`."""

    features: tuple[UserPath, ...] = Field(
        ("efficientnet-lite0",),
        description="Feature networks of the Fréchet and kernel distances: inception (FID, KID), efficientnet-lite0, "
        "efficientnet-lite1, dinov2 or dinov2:FILE, segmenter:FOLDER, or exported programs (.pt2, .onnx).",
    )
    segmenter: UserPath | None = Field(
        None,
        description="Segmenter of PPA, PCA and C-IoU: a folder of `lab2pix segmenter train`, an "
        "exported program or hf:NAME; null: without these scores.",
    )
    count: int = Field(256, ge=2, description="Maximum number of held-out label maps; the first ones are used.")
    samples: int = Field(1, ge=1, description="Images per label map, with different noise.")
    batch_size: int = Field(8, ge=1, description="Images per forward pass; changes speed and memory only.")
    inception_weights: UserPath | None = Field(
        None, description="Weights file of Inception; null: the torch hub cache, downloaded if missing."
    )


class CheckpointConfig(Section):
    """Checkpoint interval and retention."""

    every: int = Field(1000, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Number of latest checkpoints to keep.")
    best: str | None = Field(
        None,
        description="Score by which the best checkpoint is kept, too: of the method, such as `perceptual`, or of "
        "`train.evaluate_every`, such as `ciou`.",
    )


class MonitorConfig(Section):
    """Logs, sample sheets and loggers during training."""

    log_every: int = Field(10, ge=1, description="Steps between log lines.")
    sample_every: int = Field(500, ge=1, description="Steps between sample sheets, loss plots and validation scores.")
    samples: int = Field(8, ge=1, description="Number of label maps on the sample sheet.")
    tensorboard: bool = Field(True, description="Write TensorBoard files if the package is installed.")
    mlflow: str | None = Field(None, description="Tracking URI of MLflow to log to, such as file:mlruns; null: none.")
    wandb: Literal["offline", "online"] | None = Field(
        None, description="Log to Weights & Biases, in the run folder or also to its server; null: off."
    )


class RunConfig(Section):
    """Settings common to all runs; the `Config` class of a method adds its own sections.

    Attributes:
        takes_images: whether the method can generate from images (`data.input: images`).
    """

    takes_images: ClassVar[bool] = False

    name: str = Field("run", description="Name of the run.")
    method: str = Field("lab2pix-v2", description="Method to train; it defines further settings.")
    seed: int = Field(0, ge=0, description="Random seed.")
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

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that the networks take, and the smallest side."""
        return 1, 1

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the images in training: `data.size`, padded to what the networks take."""
        return padded_size(self.data.size, *self.size_rule)

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check the number of samples per forward pass, for example for batch norm.

        Args:
            samples: samples of one micro-batch in one process.
            advice: how to increase it, as the end of an error's sentence.

        Raises:
            ConfigError: the method cannot train on so few samples.
        """
