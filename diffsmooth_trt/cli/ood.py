"""ood: scores that tell in- from out-of-distribution images, and what of them is guaranteed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from ..engine import BACKENDS, PRECISIONS
from ..images import BAD_IMAGES
from ..ood.budget import BUDGETS
from ..ood.config import KINDS, OodConfig, ood_field_names
from ..ood.generated import KINDS as GENERATED
from ..ood.generated import PREFIX
from ..ood.scores import KINDS as SCORES
from .options import Commands, Parser, numbers
from .progress import add_shown


def add(commands: Commands) -> None:
    """ood and its options."""
    text = "tell in- from out-of-distribution images: AUROC, AUPR, FPR; clean, guaranteed, certified or attacked"
    example = (
        "ood --classifier classifier.onnx --engine denoiser-0.12.onnx --detector detector.onnx --in-data cifar10-test.parquet "
        "--out-data svhn.parquet generated:smooth --kind certified --max 100 --out ood.jsonl"
    )
    parser = commands.add("ood", text, example, _ood)
    _add_files(parser)
    _add_kinds(parser)
    _add_smoothing(parser)
    _add_machine(parser)
    add_shown(parser, json=False)


def _add_files(parser: Parser) -> None:
    add = parser.add_argument
    add("--classifier", type=Path, required=True, metavar="FILE", help="classifier engine, .onnx")
    add("--engine", type=Path, metavar="FILE", help="denoiser in front of the classifier, .onnx")
    add("--detector", type=Path, metavar="FILE", help="detector engine, .onnx: makes a joint model")
    add("--in-data", type=Path, required=True, metavar="PATH", help="in-distribution images")
    generated = ", ".join(PREFIX + kind for kind in GENERATED)
    add("--out-data", nargs="+", required=True, metavar="PATH", help=f"others: data sets, or {generated}")
    add("--seed", type=int, default=OodConfig.seed, metavar="N", help="of generated sets and attacks (default: 0)")
    add("--skip", type=int, default=1, metavar="K", help="take every K-th image")
    add("--max", type=int, metavar="N", help="take at most N images of each set")
    add("--resize", type=int, metavar="N", help="scale the shorter side to N (bicubic, 8-bit)")
    add("--crop", type=int, metavar="N", help="cut the central N×N pixels")
    text = "round float images to the 8-bit grid; certified: bounds are about the images as given, else scores are of the rounded"
    add("--quantise", action="store_true", help=text)
    add("--channels", type=int, metavar="C", help="read grey images with 1 or 3 equal channels")
    text = "images that cannot be used: refuse the run, or skip them and rank them against us (default: refuse)"
    add("--bad-images", choices=BAD_IMAGES, default=OodConfig.bad_images, help=text)
    text = "which class a name of --in-data is: lines `name,class`, or JSON like id2label"
    add("--class-map", type=Path, metavar="FILE", help=text)
    add("--out", type=Path, required=True, metavar="RUN.jsonl", help="the file of records to make")
    add("--resume", action="store_true", help="go on with --out")
    add("--json", type=Path, metavar="FILE", help="also write all metrics as JSON")
    add(
        "--figure",
        type=Path,
        metavar="FILE",
        help="also draw histograms, ROC and AUROC against radius: .png, .svg or .pdf",
    )


def _add_kinds(parser: Parser) -> None:
    add = parser.add_argument
    add("--kind", choices=KINDS, default=OodConfig.kind, help="default: clean")
    add(
        "--score",
        choices=SCORES,
        default=OodConfig.score,
        help="default: softmax; distro-l2: DISTRO's, bounds nothing, takes --n draws (--tolerance 0)",
    )
    add("--temperature", type=float, default=OodConfig.temperature, metavar="T", help="of energy (default: 1)")
    add(
        "--epsilon",
        type=float,
        default=OodConfig.epsilon,
        metavar="E",
        help="ℓ∞ radius of guaranteed and adversarial (default: 0.01)",
    )
    add("--budget", choices=tuple(BUDGETS), default=OodConfig.budget, help="of the attacks (default: small, for CPUs)")
    text = "noises before --engine (without one: nothing) that a score is averaged over, 0 for none; not for certified (default: 1)"
    add("--draws", type=int, default=OodConfig.draws, metavar="N", help=text)
    text = (
        "also the in-distribution accuracy under AutoAttack at each ℓ∞ radius, like 2/255,8/255; needs torchattacks "
        "(certified accuracy: see certify)"
    )
    add("--accuracy", type=_shares, default=(), metavar="E,E,…", help=text)
    add("--sigma", type=float, help="noise level in [0, 1] image units; the denoiser's own where left out")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(Fraction(part)) for part in text.split(","))
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(f"expected numbers like 2/255 separated by commas, got {text!r}") from None


def _add_smoothing(parser: Parser) -> None:
    add = parser.add_argument
    add("--n", type=int, default=OodConfig.n, help="certified: the most samples an image may take (default: 10000)")
    add("--n0", type=int, default=OodConfig.n0, help="distro-l2: samples that select the class (default: 100)")
    add(
        "--alpha",
        type=float,
        default=OodConfig.alpha,
        help="failure probability an image (default: 0.001; distro-l2: 0.01)",
    )
    text = "alpha is for all images together, not for each: without it certified figures are estimates"
    add("--family-wise", action="store_true", help=text)
    text = (
        "stop an image when more samples are unlikely to change its bound, or its part of the AUROC, by more than this; "
        "0: never before --n (default: 0.05)"
    )
    add("--tolerance", type=float, default=OodConfig.tolerance, metavar="X", help=text)
    text = "ℓ2 radius at which the AUROC matters: when to stop depends on it (default: 0.25)"
    add("--radius", type=float, default=OodConfig.radius, metavar="R", help=text)
    text = "detector's probability up to which the denoiser is spared (default: 1/256; 0: never)"
    add("--gate", type=float, default=OodConfig.gate, metavar="P", help=text)
    add(
        "--radii",
        type=numbers,
        default=OodConfig.radii,
        metavar="R,R,…",
        help="ℓ2 radii of the tables (default: 0,0.25,…,2)",
    )


def _add_machine(parser: Parser) -> None:
    add = parser.add_argument
    add("--batch", type=int, default=OodConfig.batch, metavar="B", help="rows an engine call (default: 64)")
    add("--backend", choices=tuple(BACKENDS), help="default: openvino where installed, else onnxruntime")
    add(
        "--precision",
        choices=PRECISIONS,
        help="default: bf16 where the CPU has it (OpenVINO), else fp32; detectors: fp32, but for certified",
    )
    add(
        "--device",
        default="cpu",
        help="cpu (default) or cuda:0; certified also a worker on each: cuda:0,cuda:1, all, or cpu,cpu",
    )
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    text = "certified: let workers draw: Ray on this machine, or a cluster's address"
    add("--ray", metavar="local|ADDRESS", help=text)
    add("--workers", type=int, metavar="N", help="… how many (default: one a GPU, or a CPU thread of --threads)")
    add("--key", metavar="HEX", help="256-bit noise key, 64 digits; drawn from the operating system where left out")


def _ood(arguments: argparse.Namespace) -> None:
    from ..files import write_atomically
    from ..ood.accuracy import check_library, of_run
    from ..ood.figures import write_figure
    from ..ood.report import as_json, text_report, versions_of
    from ..ood.run import run
    from .progress import shown

    config = OodConfig(**{name: value for name, value in vars(arguments).items() if name in ood_field_names()})
    if config.accuracy:
        check_library()
    with shown(arguments, f"ood {config.kind}") as progress, run(config, progress) as store:
        versions = versions_of(store, config.radii)
        print(text_report(store, versions))
        made = of_run(config, store.record.key) if config.accuracy else []
        for each in made:
            print(
                f"in-distribution accuracy of {each.images} images: clean {100 * each.clean:.2f} %, "
                f"under AutoAttack at ℓ∞ {each.epsilon:.4g} {100 * each.adversarial:.2f} %"
            )
        if config.json is not None:
            tables = {**as_json(store, versions), "accuracy": [asdict(each) for each in made]}
            write_atomically(config.json, json.dumps(tables, indent=1, sort_keys=True) + "\n")
        if config.figure is not None:
            write_figure(config.figure, store, versions)
