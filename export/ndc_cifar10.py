"""The network of noised diffusion classifiers (Chen et al. 2024): EDM's class-conditional CIFAR-10 UNet (Karras et al. 2022).

    python export/ndc_cifar10.py --denoiser edm-cifar10-32x32-cond-vp.pt --unconditional edm-cifar10-32x32-uncond-vp.pt \\
        --out engines
    python export/ndc_cifar10.py --random-weights --out engines

Writes conditional.onnx, which serves dc, epndc and apndc at every noise level, and unconditional-<sigma>.onnx, by which apndc
denoises as in the paper (certify --unconditional). EDM publishes pickles that hold code: save the
parameters of their network "ema" as a state dict first, where you trust them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import recipe

from diffsmooth_trt.exporting import export_denoiser, random_weights

CONFIGS = ("edm-cifar10-32x32-cond-vp", "edm-cifar10-32x32-cond-ve")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--denoiser", type=Path, metavar="FILE", help="the network's parameters")
    p.add_argument("--unconditional", type=Path, metavar="FILE", help="the second network's parameters")
    p.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of the second network")
    p.add_argument("--config", choices=CONFIGS, default=CONFIGS[0])
    p.add_argument("--random-weights", action="store_true", help="of the published shape")
    p.add_argument("--fp16-weights", action="store_true", help="store weights in half precision")
    p.add_argument("--out", type=Path, default=Path("engines"))
    a = p.parse_args()
    if not (a.denoiser or a.unconditional or a.random_weights):
        p.error("give --denoiser, --unconditional or --random-weights")
    a.out.mkdir(parents=True, exist_ok=True)
    second = a.config.replace("-cond-", "-uncond-")
    denoiser, unconditional = a.denoiser, a.unconditional
    if a.random_weights:
        denoiser = denoiser or random_weights.random_edm(a.config, a.out)
        unconditional = unconditional or random_weights.random_edm(second, a.out)
    half = a.fp16_weights
    if denoiser:
        out = a.out / "conditional.onnx"
        export_denoiser("edm", denoiser, a.config, None, out, conditional=True, store_fp16=half).show()
    for sigma in a.sigma if unconditional else ():
        out = a.out / f"unconditional-{sigma:g}.onnx"
        export_denoiser("edm", unconditional, second, sigma, out, unclamped=True, store_fp16=half).show()


if __name__ == "__main__":
    recipe.run(main)
