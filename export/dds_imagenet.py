"""The ImageNet denoiser of DDS (Carlini et al. 2023): guided-diffusion's unconditional 552 M UNet, run on 224×224 images.

    python export/dds_imagenet.py --denoiser 256x256_diffusion_uncond.pt --sigma 0.5 --out engines

Writes denoiser-<sigma>.onnx and its weights, which are above ONNX's 2 GB unless stored in half precision, in a second file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffsmooth_trt.exporting import export_denoiser

CONFIG = "256x256_diffusion_uncond"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--denoiser", type=Path, required=True)
    p.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--fp16-weights", action="store_true")
    p.add_argument("--out", type=Path, default=Path("engines"))
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for sigma in a.sigma:
        out = a.out / f"denoiser-{sigma:g}.onnx"
        size, half = a.image_size, a.fp16_weights
        print(export_denoiser("guided-diffusion", a.denoiser, CONFIG, sigma, out, image_size=size, store_fp16=half))


if __name__ == "__main__":
    main()
