"""The ImageNet pair of DDS (Carlini et al. 2023): guided-diffusion's unconditional 552 M UNet at 224×224, and BEiT-L at 512×512.

    python export/dds_imagenet.py --denoiser 256x256_diffusion_uncond.pt --classifier beit_large_patch16_512.safetensors \
        --sigma 0.5 --out engines
    python export/dds_imagenet.py --random-weights --sigma 0.5 --out engines

Writes denoiser-<sigma>.onnx and its weights, which are above ONNX's 2 GB unless stored in half precision, in a second file,
and classifier.onnx, which enlarges images from 224 to 512 (bicubic with antialias). The classifier is timm's checkpoint of
beit_large_patch16_512 or a Hugging Face folder of the same network; it takes [-1, 1].
"""

from __future__ import annotations

import recipe

from diffsmooth_trt.exporting import export_classifier, export_denoiser, random_weights

CONFIG, ARCH = "256x256_diffusion_uncond", "beit_large_patch16_512"
HALF = (0.5, 0.5, 0.5)


def main() -> None:
    p = recipe.parser(str(__doc__))
    p.add_argument("--image-size", type=int, default=224)
    a = p.parse_args()
    denoiser, classifier = recipe.checkpoints(
        p,
        a,
        lambda folder: random_weights.random_denoiser(CONFIG, folder),
        lambda folder: random_weights.random_classifier(ARCH, folder),
    )
    size, half = a.image_size, a.fp16_weights
    if denoiser:
        for sigma in a.sigma:
            out = a.out / f"denoiser-{sigma:g}.onnx"
            export_denoiser("guided-diffusion", denoiser, CONFIG, sigma, out, image_size=size, store_fp16=half).show()
    if classifier:
        arch, out = "hf" if classifier.is_dir() else ARCH, a.out / "classifier.onnx"
        report = export_classifier(
            arch,
            classifier,
            out,
            image_size=size,
            input_size=512,
            resize_mode="bicubic",
            antialias=True,
            mean=HALF,
            std=HALF,
            store_fp16=half,
        )
        report.show()


if __name__ == "__main__":
    recipe.run(main)
