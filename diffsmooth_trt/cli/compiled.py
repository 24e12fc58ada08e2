"""export plan and export pt2: graph files to engines compiled for this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.facts import ROLES
from .options import Commands, Parser
from .progress import add_shown, show


def add(kinds: Commands) -> None:
    """The kinds of export that compile, with their options."""
    _add_plan(kinds)
    _add_pt2(kinds)


def _add_plan(kinds: Commands) -> None:
    text = "build an ONNX file into a TensorRT plan: for this machine's first GPU, or with --target on any machine for RTX cards"
    plan = kinds.add("plan", text, "export plan --onnx denoiser.onnx --batch 1000 --out denoiser.plan", _export_plan)
    add = plan.add_argument
    add("--onnx", type=Path, required=True, metavar="FILE.onnx", help="its types and Q/DQ nodes decide the precision")
    add("--out", type=Path, required=True, metavar="FILE.plan", help="the plan; FILE.plan.json is its record")
    add("--batch", type=int, metavar="B", help="rows of every batch (default: the ONNX file's, where it fixes them)")
    text = (
        "build with TensorRT for RTX, for these: sm75, sm80, sm86, sm89, sm120, sm121, or current (this machine's GPU)"
    )
    add("--target", nargs="+", default=(), metavar="SM", help=text)
    add("--timing-cache", type=Path, metavar="FILE", help="kernel timings: read if it exists, written after the build")
    add("--workspace", type=int, metavar="MIB", help="most scratch memory of the builder (default: all)")
    add("--optimization-level", type=int, metavar="0…5", help="the builder's (default: 3)")
    add("--tf32", action="store_true", help="let fp32 products round their inputs to TF32 (default: strict fp32)")
    add("--weight-stripped", action="store_true", help="without the weights: they are read from the ONNX file at load")
    add(
        "--version-compatible",
        action="store_true",
        help="for later TensorRT versions too; holds host code: runs with --allow-host-code only",
    )
    _add_own(plan)
    add("--reference", type=Path, metavar="FILE.onnx", help="compare with this one (default: --onnx itself)")
    _add_verify(plan)
    add_shown(plan)


def _add_pt2(kinds: Commands) -> None:
    text = (
        "compile a torch program of your own (torch.export.save) with AOTInductor; ours: export denoiser --out FILE.pt2"
    )
    example = "export pt2 --program mine.pt2 --trust-program --role denoiser --sigma 0.25 --batch 64 --out engine.pt2"
    pt2 = kinds.add("pt2", text, example, _export_pt2)
    add = pt2.add_argument
    add(
        "--program", type=Path, required=True, metavar="FILE", help="float32 [B, C, H, W] in [0, 1] to images or logits"
    )
    add("--trust-program", action="store_true", dest="trusted", help="it is not a stranger's: torch runs code in it")
    add("--role", required=True, choices=ROLES[:2], help="what it is")
    add("--sigma", type=float, help="a denoiser's noise level in image units")
    add("--batch", type=int, required=True, metavar="B", help="rows of every batch")
    add("--out", type=Path, required=True, metavar="FILE.pt2", help="the package; FILE.pt2.json is its record")
    add("--device", default="cpu", help="compile for cpu or cuda:N (default: cpu)")
    add("--no-autotune", action="store_false", dest="autotune", help="compile in less time, without measuring kernels")
    add_shown(pt2)


def _export_pt2(arguments: argparse.Namespace) -> None:
    from ..exporting import check_installed

    check_installed()
    from ..exporting.program import export_program

    names = ("role", "batch", "sigma", "trusted", "device", "autotune")
    given = {name: getattr(arguments, name) for name in names}
    show(arguments, lambda: export_program(arguments.program, arguments.out, **given))


def _add_own(parser: Parser) -> None:
    """What a file without facts does not say."""
    parser.add_argument("--role", choices=ROLES, help="of a file of your own, which carries no facts")
    parser.add_argument("--sigma", type=float, help="… noise level in image units, where it is a denoiser")


def _add_verify(parser: Parser) -> None:
    parser.add_argument(
        "--verify-data", type=Path, metavar="PATH", help="images to compare on (32×32: default the zoo's)"
    )
    parser.add_argument("--verify-classifier", type=Path, metavar="FILE.onnx", help="labels a denoiser's outputs")


def _export_plan(arguments: argparse.Namespace) -> None:
    from ..exporting.plan import export_plan
    from ..exporting.writers.tensorrt_settings import PlanSettings

    names = ("tf32", "optimization_level", "weight_stripped", "version_compatible")
    asked = {name: getattr(arguments, name) for name in names}
    settings = PlanSettings(workspace_mib=arguments.workspace, targets=tuple(arguments.target), **asked)
    given = ("batch", "timing_cache", "role", "sigma", "reference", "verify_data", "verify_classifier")
    options = {name: getattr(arguments, name) for name in given}
    show(arguments, lambda: export_plan(arguments.onnx, arguments.out, settings=settings, **options))
