"""export: checkpoints to engine files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import compiled
from .options import Commands, Parser, numbers
from .progress import add_shown, show


def add(commands: Commands) -> None:
    """export with its kinds and their options."""
    text = "checkpoints to engine files"
    kinds = Commands(commands.add("export", text, "export denoiser --help"), "kind")
    _add_denoiser(kinds)
    _add_classifier(kinds)
    _add_detector(kinds)
    compiled.add(kinds)
    _add_parameters(kinds)


def _add_denoiser(kinds: Commands) -> None:
    example = (
        "export denoiser --family improved-diffusion --checkpoint cifar10_uncond_50M_500K.pt "
        "--config cifar10_uncond_50M_500K --sigma 0.25 --out denoiser.onnx"
    )
    text = "fold the one-shot denoising step of a diffusion network into one ONNX file"
    denoiser = kinds.add("denoiser", text, example, _export_denoiser)
    denoiser.add_argument(
        "--family",
        required=True,
        help="improved-diffusion, guided-diffusion, edm, diffusers, or program: a torch.export file of your own",
    )
    denoiser.add_argument("--sigma", type=float, help="noise level in [0, 1] image units to fold the step for")
    denoiser.add_argument(
        "--conditional",
        action="store_true",
        help="instead of --sigma: noise level and class as inputs, for diffusion classifiers",
    )
    denoiser.add_argument(
        "--config", metavar="NAME|FILE", help="a published configuration's name, or JSON of the family's options"
    )
    denoiser.add_argument(
        "--image-size", type=int, metavar="N", help="run the network on N×N images (default: its own size)"
    )
    denoiser.add_argument(
        "--trust-program",
        action="store_true",
        help="the --family program file is not a stranger's: torch runs code in it",
    )
    denoiser.add_argument(
        "--fractional-timestep",
        action="store_true",
        help="the timestep whose noise is exactly 2·sigma; default: the first whole one with at least that, as in the papers",
    )
    denoiser.add_argument(
        "--unclamped",
        action="store_true",
        help="leave values outside of [0, 1] in the denoised images, as published for certify --unconditional",
    )
    denoiser.add_argument("--resize-to", type=int, metavar="N", help="resize the denoised images to N×N")
    denoiser.add_argument("--crop", type=int, metavar="N", help="then crop their centre")
    _add_resize_mode(denoiser, "default: bicubic, antialiased")
    denoiser.add_argument(
        "--verify-classifier",
        type=Path,
        metavar="FILE",
        help="compare its labels of denoised images too (default: the zoo's)",
    )
    _add_common(denoiser)


def _add_classifier(kinds: Commands) -> None:
    example = "export classifier --arch resnet20 --checkpoint resnet20.th --out classifier.onnx"
    text = "a classifier with its resize and normalisation as one ONNX file"
    classifier = kinds.add("classifier", text, example, _export_classifier)
    classifier.add_argument(
        "--arch",
        metavar="NAME",
        help="resnet20…110, cifar_resnet20…110, wrn-28-10, resnet18…152, beit_large_patch16_224, resnet18_ood, "
        "densenet100, timm/NAME, torchvision/NAME, or hf: --checkpoint is then a local Hugging Face folder",
    )
    classifier.add_argument(
        "--onnx", type=Path, metavar="FILE.onnx", help="instead of --arch and --checkpoint: a classifier of your own"
    )
    classifier.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="size of the incoming images (default: 32 for CIFAR networks, else input size)",
    )
    own = "default: the model's own"
    classifier.add_argument("--input-size", type=int, metavar="N", help=f"size of the network's input; {own}")
    classifier.add_argument("--resize-to", type=int, metavar="N", help=f"resize to N×N, then crop the centre; {own}")
    _add_resize_mode(classifier, own)
    units = f"in [0, 1] image units; {own}"
    classifier.add_argument("--mean", type=numbers, metavar="R,G,B", help=f"subtracted from images, {units}")
    classifier.add_argument("--std", type=numbers, metavar="R,G,B", help=f"what they are divided by then, {units}")
    classifier.add_argument(
        "--verify-denoiser", type=Path, metavar="FILE", help="calibrate and compare on what it makes of noisy images"
    )
    _add_common(classifier, checkpoint=False)


def _add_detector(kinds: Commands) -> None:
    text = "the detector CNN of a joint model (ProoD, DISTRO) as one ONNX file"
    detector = kinds.add(
        "detector", text, "export detector --checkpoint joint.pt --out detector.onnx", _export_detector
    )
    add = detector.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a detector's or joint model's state dict")
    _add_checkpoint_key(detector)
    add("--out", type=Path, required=True, metavar="FILE.onnx", help="the engine file to write")
    add("--image-size", type=int, default=32, metavar="N", help="size of the images (default: 32)")
    add("--batch", type=int, metavar="B", help="fix the batch size (default: dynamic)")
    text = "store the weights in half the bytes, compute as before"
    add("--fp16-weights", action="store_true", dest="store_fp16", help=text)
    add_shown(detector)


def _add_parameters(kinds: Commands) -> None:
    text = "the parameters in a checkpoint that holds code, without running it"
    example = "export parameters --checkpoint edm-cifar10-32x32-cond-vp.pkl --out edm-cifar10-32x32-cond-vp.pt"
    parameters = kinds.add("parameters", text, example, _export_parameters)
    add = parameters.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="a pickle, or what torch.save made of a whole module",
    )
    add("--out", type=Path, required=True, metavar="FILE.pt", help="the state dicts in it")


def _export_parameters(arguments: argparse.Namespace) -> None:
    from ..exporting import export_parameters

    counts = export_parameters(arguments.checkpoint, arguments.out)
    held = ", ".join(f"{name} ({count})" if name else str(count) for name, count in counts.items())
    print(f"wrote {arguments.out}: tensors of {held}; no code of {arguments.checkpoint} was run")


def _add_checkpoint_key(parser: Parser) -> None:
    text = "which weights of a checkpoint that holds several, like state_dict_ema (default: averaged ones)"
    parser.add_argument("--checkpoint-key", metavar="NAME", help=text)


def _add_resize_mode(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--resize-mode", metavar="MODE", help=f"bicubic, bilinear, nearest, lanczos, box or hamming; {default}"
    )
    parser.add_argument(
        "--antialias", action=argparse.BooleanOptionalAction, help=f"how Pillow resizes, or how torch does; {default}"
    )


def _add_common(parser: Parser, checkpoint: bool = True) -> None:
    kinds = "a state dict (.pt, .th, .safetensors), an index of shards, or a folder with one of these"
    parser.add_argument("--checkpoint", type=Path, required=checkpoint, metavar="FILE", help=kinds)
    _add_checkpoint_key(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the engine file to write: .onnx, or .pt2 (AOTInductor)"
    )
    parser.add_argument(
        "--precision", default="fp32", help="fp32 (default), fp16 or bf16; in ONNX files int8 and fp8 too, calibrated"
    )
    add = parser.add_argument
    text = "int8 for cpu (default), or for gpu: symmetric, as TensorRT takes it"
    add("--quantise-for", metavar="cpu|gpu", help=text)
    add("--calibration-data", type=Path, metavar="PATH", help="images that int8 and fp8 are calibrated on, with noise")
    add(
        "--verify-data",
        type=Path,
        metavar="PATH",
        help="images to compare with the source on (32×32: default the zoo's)",
    )
    add(
        "--verify-samples", type=int, default=2000, metavar="N", help="noisy images to compare, fewer for huge networks"
    )
    parser.add_argument("--batch", type=int, metavar="B", help="fix the batch size (default: dynamic)")
    parser.add_argument("--device", default="cpu", help=".pt2: compile for cpu or cuda:N (default: cpu)")
    parser.add_argument(
        "--no-autotune",
        action="store_false",
        dest="autotune",
        help=".pt2: compile in less time, without measuring kernels",
    )
    parser.add_argument(
        "--fp16-weights",
        action="store_true",
        dest="store_fp16",
        help="store the weights in half the bytes, compute as before",
    )
    add_shown(parser)


def _export_denoiser(arguments: argparse.Namespace) -> None:
    from ..exporting import export_denoiser

    names = (
        "family",
        "config",
        "sigma",
        "conditional",
        "fractional_timestep",
        "unclamped",
        "trust_program",
        "resize_to",
        "crop",
        "resize_mode",
        "antialias",
        "verify_classifier",
    )
    show(arguments, lambda: export_denoiser(**_given(arguments, *names)))


def _export_classifier(arguments: argparse.Namespace) -> None:
    from ..exporting import export_classifier, export_onnx_classifier

    options = _given(arguments, "input_size", "resize_to", "resize_mode", "antialias", "mean", "std", "verify_denoiser")
    checkpoint = options.pop("checkpoint")
    if arguments.onnx is not None:
        given = (arguments.arch, checkpoint, options.pop("checkpoint_key"))
        if any(value is not None for value in given) or options.pop("store_fp16"):
            raise InputError(
                "--onnx takes the place of --arch, --checkpoint, --checkpoint-key and --fp16-weights: leave them out"
            )
        if options.pop("device") != "cpu" or not options.pop("autotune"):
            raise InputError(
                "--device and --no-autotune are for .pt2 packages, --onnx makes an .onnx file: leave them out"
            )
        show(arguments, lambda: export_onnx_classifier(arguments.onnx, **options))
        return
    if arguments.arch is None or checkpoint is None:
        raise InputError("--arch and --checkpoint are missing: give both, or --onnx for a classifier of your own")
    arch = arguments.arch
    show(arguments, lambda: export_classifier(arch, checkpoint, **options))


def _export_detector(arguments: argparse.Namespace) -> None:
    from ..exporting import export_detector

    names = ("checkpoint", "checkpoint_key", "out", "image_size", "batch", "store_fp16")
    show(arguments, lambda: export_detector(**{name: getattr(arguments, name) for name in names}))


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options of both kinds and those in `names`, by name."""
    common = (
        "checkpoint",
        "checkpoint_key",
        "out",
        "precision",
        "batch",
        "image_size",
        "store_fp16",
        "device",
        "autotune",
    )
    verify = ("calibration_data", "quantise_for", "verify_data", "verify_samples")
    return {name: getattr(arguments, name) for name in (*common, *verify, *names)}
