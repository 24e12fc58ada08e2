"""Writes one published size with random weights, in fp32 and fp16, into a folder, and prints the files: for bench_rtx.py.

python benchmarks/rtx_published.py NAME FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rtx_forms import lowered, traced

from diffsmooth_trt.exporting.classifier import classifier_file
from diffsmooth_trt.exporting.denoiser import denoiser_file, read_family
from diffsmooth_trt.exporting.graph.output_size import OutputSize
from diffsmooth_trt.exporting.graph.preprocessing import Overrides
from diffsmooth_trt.nets.classifiers import classifier_from_arch

# name: family, noise level, size of the images
PUBLISHED: dict[str, tuple[str, float | None, int | None]] = {
    "cifar10_uncond_50M_500K": ("improved-diffusion", 0.25, None),
    "edm-cifar10-32x32-cond-vp": ("edm", None, None),
    "256x256_diffusion_uncond": ("guided-diffusion", 0.5, 224),
    "beit_large_patch16_512": ("classifier", None, 224),
}


def fp32(name: str, folder: Path) -> Path:
    """The file in fp32; the checkpoint is gone again."""
    family, sigma, size = PUBLISHED[name]
    source, out = folder / f"{name}.pt", folder / "fp32.onnx"
    torch.manual_seed(0)
    net: Any = (
        classifier_from_arch(name).module if family == "classifier" else read_family(family, name, source).network()
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    torch.save({("model." if family == "edm" else "") + key: value for key, value in net.state_dict().items()}, source)
    del net
    if family == "classifier":
        classifier_file(name, source, out, Overrides(size), None, False, write=traced)
    else:
        form: dict[str, Any] = {
            "batch": None,
            "store_fp16": False,
            "image_size": size,
            "fractional": False,
            "clamp": True,
        }
        denoiser_file(family, source, name, sigma, out, output=OutputSize(), write=traced, **form)
    source.unlink()
    return out


def main() -> None:
    source = fp32(sys.argv[1], Path(sys.argv[2]))
    print(source)
    print(lowered(source, "fp16"))


if __name__ == "__main__":
    main()
