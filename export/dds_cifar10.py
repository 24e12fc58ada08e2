"""The CIFAR-10 pair of DDS (Carlini et al. 2023): improved-diffusion's 50 M UNet and a ViT-B/16 fine-tuned on CIFAR-10.

    python export/dds_cifar10.py --denoiser cifar10_uncond_50M_500K.pt --classifier vit-base-finetuned-cifar10 --out engines
    python export/dds_cifar10.py --random-weights --sigma 0.25 --out engines

Writes denoiser-<sigma>.onnx and classifier.onnx. The classifier is a Hugging Face folder; it takes [-1, 1], and images are
enlarged from 32 to 224 inside it, bicubic with antialias, whatever its preprocessor file says.
"""

from __future__ import annotations

import recipe

from diffsmooth_trt.exporting import export_classifier, export_denoiser, random_weights

CONFIG = "cifar10_uncond_50M_500K"
HALF = (0.5, 0.5, 0.5)


def main() -> None:
    p = recipe.parser(str(__doc__))
    a = p.parse_args()
    denoiser, classifier = recipe.checkpoints(
        p, a, lambda folder: random_weights.random_denoiser(CONFIG, folder), random_weights.random_vit
    )
    half = a.fp16_weights
    if denoiser:
        for sigma in a.sigma:
            out = a.out / f"denoiser-{sigma:g}.onnx"
            export_denoiser("improved-diffusion", denoiser, CONFIG, sigma, out, store_fp16=half).show()
    if classifier:
        out = a.out / "classifier.onnx"
        report = export_classifier(
            "hf",
            classifier,
            out,
            image_size=32,
            input_size=224,
            resize_mode="bicubic",
            antialias=True,
            mean=HALF,
            std=HALF,
            store_fp16=half,
        )
        report.show()


if __name__ == "__main__":
    recipe.run(main)
