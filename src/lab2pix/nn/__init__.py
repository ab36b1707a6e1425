"""Networks and layers. They depend on tensors only, not on files or the configuration; faster ones are in `fast`."""

from __future__ import annotations

from lab2pix.nn.attention import LSCA
from lab2pix.nn.backbones import VGG16, VGG19, CompactVGG19, EfficientNetLite0, EfficientNetLite1
from lab2pix.nn.blocks import ConvNormAct, GenResBlk, MiniInception
from lab2pix.nn.discriminators import HierarchicalDiscriminator, MultiScaleDiscriminator, PatchDiscriminator
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, SketchEncoder
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.normalization import SPADE, DGNorm
from lab2pix.nn.patchgan import PatchGAN, PixelGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.segmentation import FPNHead, ICNet
from lab2pix.nn.unet import UNetGenerator

__all__ = [
    "LSCA",
    "SPADE",
    "VGG16",
    "VGG19",
    "CompactVGG19",
    "ConvNormAct",
    "DGNorm",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "FPNHead",
    "GenResBlk",
    "GeneratorSettings",
    "GlobalEncoder",
    "HierarchicalDiscriminator",
    "ICNet",
    "Lab2PixV1Generator",
    "Lab2PixV2Generator",
    "MiniInception",
    "MultiScaleDiscriminator",
    "NoiseEncoder",
    "PatchDiscriminator",
    "PatchGAN",
    "PixelGAN",
    "ResNetGenerator",
    "SketchEncoder",
    "UNetGenerator",
]
