"""The CIFAR-10 model of DISTRO (Franco et al. 2023): the one-shot denoiser, then ProoD's classifier; its detector beside them.

    python export/distro.py --denoiser cifar10_uncond_50M_500K.pt --joint joint.pt --out engines
    python export/distro.py --random-weights --out engines

Writes denoiser-0.12.onnx, classifier.onnx and detector.onnx, which `diffsmooth-trt ood --engine --classifier --detector` joins.
`--joint` is the state dict of a joint model (ProoD's names); the paper smooths with σ = 0.12.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import recipe

from diffsmooth_trt.exporting import export_classifier, export_denoiser, export_detector, random_weights

CONFIG = "cifar10_uncond_50M_500K"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--denoiser", type=Path, metavar="FILE", help="the diffusion network's checkpoint")
    p.add_argument("--joint", type=Path, metavar="FILE", help="the joint model's checkpoint")
    p.add_argument("--arch", default="resnet18_ood", help="of the joint model's classifier")
    p.add_argument("--random-weights", action="store_true", help="of the published shapes, for what is not given")
    p.add_argument("--sigma", type=float, default=0.12)
    p.add_argument("--fp16-weights", action="store_true", help="store weights in half precision")
    p.add_argument("--out", type=Path, default=Path("engines"))
    a = p.parse_args()
    if not (a.denoiser or a.joint or a.random_weights):
        p.error("give --denoiser, --joint or --random-weights")
    a.out.mkdir(parents=True, exist_ok=True)
    denoiser = a.denoiser or (random_weights.random_denoiser(CONFIG, a.out) if a.random_weights else None)
    joint = a.joint or (random_weights.random_joint(a.out) if a.random_weights else None)
    half = a.fp16_weights
    if denoiser:
        out = a.out / f"denoiser-{a.sigma:g}.onnx"
        export_denoiser("improved-diffusion", denoiser, CONFIG, a.sigma, out, store_fp16=half).show()
    if joint:
        export_classifier(a.arch, joint, a.out / "classifier.onnx", store_fp16=half).show()
        export_detector(joint, a.out / "detector.onnx", store_fp16=half).show()


if __name__ == "__main__":
    recipe.run(main)
