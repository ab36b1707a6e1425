"""One tree of settings: what a run is, from the label map's folder to the last checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "FEATURE_NAMES",
    "BackboneConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DiscriminatorConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "GlobalEncoderConfig",
    "Light",
    "LossConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "ScenesConfig",
    "SegmenterConfig",
    "SideConfig",
    "SketchConfig",
    "TrainConfig",
]

BackboneName = Literal["vgg16", "vgg19", "vgg19-16x", "efficientnet-lite0", "efficientnet-lite1"]

Light = Literal["sun", "any"]
"""Whether the height of the sun tells in which light a drawn scene lies, or nothing does."""

FEATURE_NAMES = ("inception", "efficientnet-lite0", "efficientnet-lite1")
"""Feature networks that `lab2pix.evaluation` knows by name."""


class Section(BaseModel):
    """A part of the tree: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScenesConfig(Section):
    """The drawn landscapes of layout `scenes`, which need no files."""

    train_count: int = Field(2000, ge=1, description="How many different scenes to train on.")
    val_count: int = Field(64, ge=1, description="How many scenes to hold out.")
    seed: int = Field(0, ge=0, description="Which world the scenes are drawn from.")
    light: Light = Field(
        "sun",
        description="What light scenes lie in: as the height of their sun says, or any under any label map.",
    )


class SideConfig(Section):
    """One side of an unpaired set: a folder of label maps, or one of photos."""

    root: str | None = Field(None, description="The folder; null: as `data.layout` and `data.root` say.")


class SketchConfig(Section):
    """Where line drawings come from (label space `sketch`)."""

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
    label_space: str | None = Field(None, description="Label space of the label maps that borders are taken from.")
    sigma: float = Field(2.0, gt=0, description="Blur before edges are looked for in a photo, in pixels at `size`.")


class DataConfig(Section):
    """Where label maps and photos lie, and how they become tensors."""

    layout: str = Field("folder", description="How the files lie on disk; `lab2pix data layouts` lists them.")
    root: str | None = Field(
        None, description="The data set's folder, relative to where lab2pix is started; scenes need none."
    )
    label_space: str = Field("scenes", description="A shipped label space or a YAML file.")
    train_split: str | None = Field("train", description="Sub-folder or split to train on; null: no splits.")
    val_split: str | None = Field("val", description="Split to hold out for samples and scores; null: none.")
    size: tuple[int, int] = Field((256, 256), description="Height and width that the networks see, in pixels.")
    resize: tuple[int, int] | None = Field(
        None, description="Height and width to resize to before a random crop to `size`; null: resize to `size`."
    )
    flip: bool = Field(True, description="Mirror left and right at random, label and photo together.")
    instance_edges: bool = Field(False, description="Append a channel that marks the borders between instances.")
    unpaired: bool = Field(
        False, description="Let label maps and photos meet at random, anew each epoch; never a label map its own photo."
    )
    labels: SideConfig = SideConfig()
    images: SideConfig = SideConfig()
    sketch: SketchConfig = SketchConfig()
    workers: int = Field(0, ge=0, description="Processes that read files beside the training; 0: the training itself.")
    scenes: ScenesConfig = ScenesConfig()


class GlobalEncoderConfig(Section):
    """The encoder behind the global feature of DG-Norm (Eq. 2)."""

    width: int = Field(64, ge=1, description="Channels of the first convolution; they double with each stride.")
    max_width: int = Field(512, ge=1, description="The most channels any of its convolutions has.")


class GeneratorConfig(Section):
    """The network that draws (3.1, 4.2.1)."""

    width: int = Field(64, ge=2, description="Channels at the last scale; the first has 16 times as many.")
    doublings: Literal[5, 6, 7] = Field(
        5, description="How often the size doubles; V2: 5 for 256x256, 6 for 512x256, 7 for 1024x512; V1: 7 (sketch 5)."
    )
    encoder: Literal["semantic", "sketch"] = Field(
        "semantic", description="V1's adaptive label encoder (3.1.1): for classes, or for line drawings."
    )
    progressive: bool = Field(False, description="V1: draw X1, X2 and X3 in one pass (Eq. 17); false: X3 alone.")
    coattention: bool = Field(False, description="V1: label guided spatial co-attention at the last scales (Eq. 7).")
    modulation: Literal["dg-norm", "spade"] = Field("dg-norm", description="DG-Norm, or SPADE without global feature.")
    modulation_hidden: int = Field(128, ge=1, description="Channels between the label map and scale and shift.")
    global_encoder: GlobalEncoderConfig = GlobalEncoderConfig()
    start: Literal["noise", "label"] = Field(
        "noise", description="What the first scale is made from: noise (Eq. 21) or the small label map (as released)."
    )
    noise_dim: int = Field(128, ge=1, description="Length of the noise vector z.")
    spectral_norm: bool = Field(True, description="Spectral norm on the convolutions of the blocks.")


class DiscriminatorConfig(Section):
    """The networks that judge (3.2.1)."""

    kind: Literal["hierarchical", "patch"] = Field(
        "hierarchical", description="Hierarchical perceptual discriminators, or SPADE's PatchGANs."
    )
    scales: Literal[1, 2, 3] = Field(2, description="How many discriminators; each next one sees half the size.")
    width: int = Field(64, ge=1, description="Channels of the first convolution.")
    max_width: int = Field(512, ge=4, description="Channels of the levels (hierarchical) or the most (patch).")


class SegmenterConfig(Section):
    """V1's ICNets, which read the label map back from the generated images (4.1.2)."""

    width: int = Field(32, ge=4, description="Channels of the first convolutions; the last stage has 32 times as many.")
    blocks: tuple[
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
    ] = Field((3, 4, 6, 3), description="Residual blocks of its four stages.")


class BackboneConfig(Section):
    """Frozen networks that lend their eyes; one held in memory per name."""

    discriminator: BackboneName = Field("vgg16", description="Network of the perceptual branch.")
    perceptual: BackboneName = Field(
        "vgg19", description="Network of the perceptual loss (V2) or of image consistency (V1)."
    )
    weights: dict[BackboneName, str] = Field(
        default_factory=dict, description="File with the weights, by network; else the torch hub cache or the package."
    )
    normalize: bool = Field(
        True,
        description="Normalize images as in the network's training, for perceptual or consistency loss (released: no).",
    )
    normalize_discriminator: bool = Field(
        True, description="Normalize images as the network was trained, for the perceptual branch (released V1: no)."
    )


class LossConfig(Section):
    """What the players minimise, and with which weights (Eq. 20, 31)."""

    adversarial: Literal["hinge", "vanilla"] = Field("hinge", description="Form of the adversarial loss.")
    adversarial_reduction: Literal["mean", "released"] = Field(
        "mean",
        description="Weighted mean over levels and sum over scales (Eq. 24), or the released code's running sum.",
    )
    foreground_rate: float = Field(5.0, ge=1, description="T: how much more a foreground pixel weighs (Eq. 9); 1: off.")
    background_ids: tuple[int, ...] | None = Field(
        None, description="Class ids that are background; null: as the label space says."
    )
    foreground_per_image: bool = Field(
        True, description="Weigh each image by its own mask (Eq. 14), or all by the batch's mean mask (released V2)."
    )
    sharpness: float = Field(1.0, ge=0, description="λ2: weight of blurred photos as fakes (Eq. 30); 0: off.")
    sharpness_schedule: Literal["constant", "rising"] = Field(
        "constant", description="λ2 as it is all through the run, or rising to it from 0 in a straight line (V1, 5.2)."
    )
    sharpness_normalized: bool = Field(False, description="Divide by 1 + λ2, as the released V2 does.")
    discriminator_halved: bool = Field(
        True, description="Halve real plus fake (Eq. 25, 30), or plainly add them (released)."
    )
    blur: Literal["nearest", "average"] = Field("nearest", description="How blurred photos are halved before doubling.")
    perceptual: float = Field(10.0, ge=0, description="λ5: weight of the perceptual loss (Eq. 28); 0: off.")
    perceptual_scales: Literal["all", "full", "two"] = Field(
        "all",
        description="Perceptual loss at every scale that has a discriminator, at X3 only, or at X3 and its half, "
        "however many discriminators there are.",
    )
    feature_matching: float = Field(10.0, ge=0, description="λ6: weight of feature matching (Eq. 29); 0: off.")
    feature_matching_reduction: Literal["mean", "released"] = Field(
        "mean", description="Mean over layers and sum over scales (Eq. 29), or sum over layers and mean over scales."
    )

    consistency: float = Field(0.0, ge=0, description="V1, λ3: weight of image consistency (Eq. 18); 0: off.")
    consistency_form: Literal["norm", "squared", "mean-square"] = Field(
        "squared", description="Squared L2 norm per image, the plain norm (Eq. 18), or the mean of squares (released)."
    )
    consistency_layers: Literal["second", "first"] = Field(
        "second", description="The second convolution of each stage (Eq. 18) or the first (released)."
    )
    diversity: float = Field(
        0.0,
        ge=0,
        description="V1, not in the paper: weight of mode seeking, for which a quarter of a batch repeats the label "
        "maps of another quarter with other noise; 0: off, and noise may come to change little.",
    )
    nearest_of: int = Field(
        1,
        ge=1,
        description="V2, not in the paper: pictures drawn of each label map in a step, of which the one nearest to the "
        "photo learns, so that noise comes to mean light and colour; 1: off, and noise may come to change little.",
    )
    cycle: float = Field(
        0.0,
        ge=0,
        description="V1, λ4: weight of cycle segmentation (Eq. 19); 0: off. V2, not in the paper: the same with a head "
        "on the perceptual network that learns to read label maps in the photos.",
    )
    cycle_warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="V1, not in the paper: first part of the run in which λ4 rises to its value from a "
        "thousandth of it; 0: off.",
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """Adam, and how its learning rates fall (5.2)."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generator.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    discriminator_every: int = Field(
        1,
        ge=1,
        description="Not in the paper: steps from one turn of the discriminators to the next; 1: they learn at each.",
    )
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's two decay rates.")
    decay_fraction: float = Field(0.5, ge=0, le=1, description="Last part of the run in which the rates fall to 0.")


class TrainConfig(Section):
    """How long, how many at once, and how exactly."""

    batch_size: int = Field(
        1, ge=1, description="Samples per optimiser step, over all processes and accumulated parts."
    )
    epochs: int | None = Field(None, ge=1, description="How often to see the whole set; give this or `steps`.")
    steps: int | None = Field(None, ge=1, description="How many optimiser steps; give this or `epochs`.")
    accumulate: int = Field(1, ge=1, description="Parts a batch is split into to save memory.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Number format of the forward passes.")
    channels_last: bool = Field(False, description="Memory order that many processors convolve faster in.")
    compile: bool = Field(False, description="Make programs of the networks by torch.compile at the first step.")
    gradient_checkpointing: bool = Field(False, description="Recompute the generator's blocks to save memory.")
    init_gain: float | None = Field(
        None,
        gt=0,
        description="Draw the players' first weights Xavier normal with this gain; 1: signals keep their size; null: "
        "as released, V1 normal with deviation 0.02, V2 Xavier normal with gain 0.02.",
    )
    ema_decay: float | None = Field(None, gt=0, lt=1, description="Average the generator's weights; null: off.")
    start_from: str | None = Field(
        None,
        description="A run, checkpoint or exported model whose weights to start from, wherever names and shapes agree; "
        "null: random weights.",
    )
    max_minutes: float | None = Field(None, gt=0, description="End the run after so many minutes; null: no limit.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between scores of the evaluator on held-out label maps; null: off."
    )


class EvaluationConfig(Section):
    """How the evaluator judges a run while it trains (`train.evaluate_every`), as `lab2pix evaluate` would."""

    features: tuple[str, ...] = Field(
        ("efficientnet-lite0",),
        description="What the Fréchet and kernel distances look through: inception (FID, KID), efficientnet-lite0, "
        "efficientnet-lite1, or exported programs (.pt2, .onnx).",
    )
    segmenter: str | None = Field(
        None,
        description="Reads label maps in pictures for PPA, PCA and C-IoU: a folder of `lab2pix segmenter train`, an "
        "exported program or hf:NAME; null: leaves these scores out.",
    )
    count: int = Field(256, ge=2, description="How many held-out label maps, the first ones; fewer where there are.")
    samples: int = Field(1, ge=1, description="Pictures per label map, each with other noise.")
    batch_size: int = Field(8, ge=1, description="Pictures drawn at once; changes speed and memory only.")
    inception_weights: str | None = Field(
        None, description="File of Inception's weights; null: the torch hub cache, or the net."
    )


class CheckpointConfig(Section):
    """What is kept of a run."""

    every: int = Field(1000, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="How many of the latest stay.")
    best: str | None = Field(
        None,
        description="Score by which the best stays as well: one of the method's, such as `perceptual`, or one that "
        "`train.evaluate_every` takes, such as `ciou`.",
    )


class MonitorConfig(Section):
    """What a run shows while it goes on."""

    log_every: int = Field(10, ge=1, description="Steps between lines of the log.")
    sample_every: int = Field(500, ge=1, description="Steps between sample sheets, loss plots and validation scores.")
    samples: int = Field(8, ge=1, description="Label maps on the sample sheet.")
    tensorboard: bool = Field(True, description="Write TensorBoard files where the package is installed.")


class Config(Section):
    """A whole run."""

    name: str = Field("run", description="What the run is called.")
    method: Literal["lab2pix-v1", "lab2pix-v2"] = Field(
        "lab2pix-v2", description="Which system: V1 learns from unpaired data, V2 from pairs."
    )
    seed: int = Field(0, ge=0, description="Decides every random number of the run.")
    data: DataConfig = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    backbone: BackboneConfig = BackboneConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()
