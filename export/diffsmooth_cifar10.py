"""The CIFAR-10 pair of DiffSmooth (Zhang et al. 2023): improved-diffusion's 50 M UNet and a smoothed ResNet-110.

    python export/diffsmooth_cifar10.py --denoiser cifar10_uncond_50M_500K.pt --classifier checkpoint.pth.tar \
        --sigma 0.25 --out engines
    python export/diffsmooth_cifar10.py --random-weights --sigma 0.25 --out engines

Writes denoiser-<sigma>.onnx and classifier.onnx. The classifier is one of Cohen et al. 2019 or in their format. `--resize-to
224` makes denoisers for the paper's predictor instead, whose classifier is a ViT at 224: images are resized (bilinear) before
they get their local noise.
"""

from __future__ import annotations

import recipe

from diffsmooth_trt.exporting import export_classifier, export_denoiser, random_weights

CONFIG = "cifar10_uncond_50M_500K"


def main() -> None:
    p = recipe.parser(str(__doc__))
    p.add_argument("--arch", default="cifar_resnet110")
    p.add_argument("--resize-to", type=int)
    a = p.parse_args()
    denoiser, classifier = recipe.checkpoints(
        p,
        a,
        lambda folder: random_weights.random_denoiser(CONFIG, folder),
        lambda folder: random_weights.random_classifier(a.arch, folder),
    )
    size, half = a.resize_to, a.fp16_weights
    if denoiser:
        for sigma in a.sigma:
            out = a.out / f"denoiser-{sigma:g}.onnx"
            report = export_denoiser(
                "improved-diffusion",
                denoiser,
                CONFIG,
                sigma,
                out,
                resize_to=size,
                resize_mode="bilinear",
                store_fp16=half,
            )
            report.show()
    if classifier:
        export_classifier(a.arch, classifier, a.out / "classifier.onnx", image_size=size, store_fp16=half).show()


if __name__ == "__main__":
    recipe.run(main)
