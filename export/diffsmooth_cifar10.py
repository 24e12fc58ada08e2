"""The CIFAR-10 pair of DiffSmooth (Zhang et al. 2023): improved-diffusion's 50 M UNet and a smoothed ResNet-110.

    python export/diffsmooth_cifar10.py --denoiser cifar10_uncond_50M_500K.pt --classifier checkpoint.pth.tar \
        --sigma 0.25 --out engines

Writes denoiser-<sigma>.onnx and classifier.onnx. DDS (Carlini et al. 2023) uses the same denoiser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffsmooth_trt.exporting import export_classifier, export_denoiser

CONFIG = "cifar10_uncond_50M_500K"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--denoiser", type=Path, required=True)
    p.add_argument("--classifier", type=Path)
    p.add_argument("--arch", default="cifar_resnet110")
    p.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    p.add_argument("--out", type=Path, default=Path("engines"))
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for sigma in a.sigma:
        print(export_denoiser("improved-diffusion", a.denoiser, CONFIG, sigma, a.out / f"denoiser-{sigma:g}.onnx"))
    if a.classifier:
        print(export_classifier(a.arch, a.classifier, a.out / "classifier.onnx"))


if __name__ == "__main__":
    main()
