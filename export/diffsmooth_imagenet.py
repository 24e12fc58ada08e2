"""The ImageNet pair of DiffSmooth (Zhang et al. 2023) at 224×224: guided-diffusion's unconditional 552 M UNet, a smoothed BEiT-L.

    python export/diffsmooth_imagenet.py --denoiser 256x256_diffusion_uncond.pt --classifier checkpoint.pth.tar \
        --sigma 0.5 --out engines
    python export/diffsmooth_imagenet.py --random-weights --sigma 0.5 --out engines

Writes denoiser-<sigma>.onnx and its weights, which are above ONNX's 2 GB unless stored in half precision, in a second file,
and classifier.onnx. The classifier is beit_large_patch16_224, {"arch", "state_dict"} behind a normalisation to [-1, 1], or with
`--arch resnet50` one of Cohen et al. 2019.
"""

from __future__ import annotations

import recipe

from diffsmooth_trt.exporting import export_classifier, export_denoiser, random_weights

CONFIG = "256x256_diffusion_uncond"


def main() -> None:
    p = recipe.parser(str(__doc__))
    p.add_argument("--arch", default="beit_large_patch16_224")
    a = p.parse_args()
    denoiser, classifier = recipe.checkpoints(
        p,
        a,
        lambda folder: random_weights.random_denoiser(CONFIG, folder),
        lambda folder: random_weights.random_classifier(a.arch, folder, parallel=a.arch == "resnet50"),
    )
    half = a.fp16_weights
    if denoiser:
        for sigma in a.sigma:
            out = a.out / f"denoiser-{sigma:g}.onnx"
            export_denoiser("guided-diffusion", denoiser, CONFIG, sigma, out, image_size=224, store_fp16=half).show()
    if classifier:
        export_classifier(a.arch, classifier, a.out / "classifier.onnx", store_fp16=half).show()


if __name__ == "__main__":
    recipe.run(main)
