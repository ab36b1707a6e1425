"""Titles and directions of all scores, by name."""

from __future__ import annotations

EVALUATION_TITLES = {
    "ppa": "PPA, share of right pixels",
    "pca": "PCA, mean accuracy of classes",
    "ciou": "C-IoU, mean IoU of classes",
    "fid": "FID",
    "kid": "KID",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "diversity_pixels": "Diversity, mean difference of pixels (0 to 255)",
    "diversity_lpips_alex": "Diversity, LPIPS (AlexNet)",
    "diversity_lpips_vgg": "Diversity, LPIPS (VGG16)",
    "checkerboard": "Gradients at even and at odd pixels, the smaller to the larger (1: no checkerboard)",
}
"""Scores of `lab2pix.evaluation`; in other features, `frechet_`, `kernel_`, `precision_` and `recall_NAME`."""

VALIDATION_TITLES = {
    "l1": "Mean difference of pixels in [-1, 1]",
    "perceptual": "Perceptual loss",
    "cycle": "Cycle segmentation loss",
    "seg_error": "Share of pixels that its own segmenter classifies differently",
}
"""Scores that methods compute themselves; lower is better."""

_IN_FEATURES = {
    **{"frechet_": "Fréchet distance", "kernel_": "Kernel distance"},
    **{"precision_": "Precision", "recall_": "Recall"},
}


def score_title(name: str) -> str:
    """Return a score's title; its name where it has none."""
    for start, title in _IN_FEATURES.items():
        if name.startswith(start):
            return f"{title}, {name.removeprefix(start)} features"
    return EVALUATION_TITLES.get(name) or VALIDATION_TITLES.get(name, name)


def higher_is_better(name: str) -> bool:
    """Return the direction in which a score improves; lower is better for names that are not known."""
    return name in ("ppa", "pca", "ciou", "psnr", "ssim", "checkerboard") or name.startswith(
        ("diversity_", "precision_", "recall_")
    )
