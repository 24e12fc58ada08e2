"""soft-predict: the DiffSmooth predictor, which certifies nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine import BACKEND_NAMES, PRECISIONS
from ..images import BAD_IMAGES, REFUSE
from ..ranges import flag
from .options import Commands
from .progress import add_shown
from .run_options import add_host_code

ENGINES = ("backend", "precision", "threads", "allow_host_code")
OPTIONS = ("denoising_sigma", "local_sigma", "num_samples", "local_vote", "key", "batch", "device")
CHOICE = ("skip", "max", "resize", "crop", "channels", "bad_images", "class_map")
INPUTS = ("engine", "classifier", "data", "class_map")


def add(commands: Commands) -> None:
    """soft-predict with its options."""
    text = "class probabilities by the DiffSmooth predictor, a soft vote over denoised draws: it gives no certificate"
    example = (
        "soft-predict --engine denoiser.onnx --classifier classifier.onnx --data images.parquet --tsv probabilities.tsv"
    )
    parser = commands.add("soft-predict", text, example, _soft_predict)
    add = parser.add_argument
    text = "denoiser: folded for the denoising sigma, or conditional with a null class; none with --denoising-sigma 0"
    add("--engine", type=Path, metavar="FILE", help=text)
    add(
        "--classifier", type=Path, required=True, metavar="FILE", help="classifier engine, trained with the local sigma"
    )
    text = "noise in front of the denoiser, 0 to 0.5; 0: no denoising (default: the denoiser's own, else 0.12)"
    add("--denoising-sigma", type=float, metavar="S", help=text)
    text = "noise in front of the classifier: 0.06, 0.12 (default) or 0.25"
    add("--local-sigma", type=float, default=0.12, metavar="S", help=text)
    add("--num-samples", type=int, default=20, metavar="N", help="denoised draws an image (default: 20)")
    add("--local-vote", type=int, default=5, metavar="M", help="local noises a draw (default: 5)")
    add("--data", type=Path, required=True, metavar="PATH", help="parquet, image folder, .npz or CIFAR binary")
    add("--skip", type=int, default=1, metavar="K", help="take every K-th image")
    add("--max", type=int, metavar="N", help="take at most N images")
    add("--resize", type=int, metavar="N", help="scale the shorter side to N (bicubic, 8-bit)")
    add("--crop", type=int, metavar="N", help="cut the central N×N pixels")
    add("--channels", type=int, metavar="C", help="read grey images with 1 or 3 equal channels")
    text = "which class a name of the data set is: lines `name,class`, or JSON like id2label"
    add("--class-map", type=Path, metavar="FILE", help=text)
    text = "images that cannot be used: refuse all, or skip them and count them as not right (default: refuse)"
    add("--bad-images", choices=BAD_IMAGES, default=REFUSE, help=text)
    add("--batch", type=int, default=64, metavar="B", help="rows an engine call (default: 64)")
    add("--backend", choices=BACKEND_NAMES, help="as for certify")
    add("--precision", choices=PRECISIONS, help="as for certify")
    add("--device", default="cpu", help="cpu (default), or cuda:0, cuda:1, … for an NVIDIA GPU")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add_host_code(add)
    add("--key", metavar="HEX", help="256-bit noise key, 64 digits; drawn from the operating system where left out")
    add("--tsv", type=Path, metavar="FILE", help="`idx label predict correct log_p_0 …`, natural logarithms")
    add("--json", type=Path, metavar="FILE", help="everything, as JSON")
    add_shown(parser, json=False)


def _soft_predict(arguments: argparse.Namespace) -> None:
    from ..datasets import read_class_map
    from ..engine.choice import EngineChoice
    from ..files import check_outputs, write_atomically
    from ..images import ImageChoice, Images
    from ..predictor import DiffSmoothPredictor
    from ..predictor.run import predict_images
    from .progress import shown

    engines = {name: getattr(arguments, name) for name in ENGINES}
    EngineChoice(batch=arguments.batch, device=arguments.device, **engines)
    inputs = {flag(name): getattr(arguments, name) for name in INPUTS}
    outputs = {"--tsv": arguments.tsv, "--json": arguments.json}
    check_outputs(outputs, inputs)
    choice = ImageChoice(**{name: getattr(arguments, name) for name in CHOICE})
    images = Images.chosen(arguments.data, choice)
    class_map = None if choice.class_map is None else read_class_map(choice.class_map)
    given = {name: getattr(arguments, name) for name in OPTIONS}
    with (
        shown(arguments, "soft-predict") as bar,
        DiffSmoothPredictor(arguments.classifier, arguments.engine, **given, **engines) as predictor,
    ):
        bar.start(len(images), 0, len(images) * arguments.num_samples, 0)
        predictions = predict_images(
            predictor,
            images,
            key_drawn=arguments.key is None,
            class_map=class_map,
            progress=lambda more: bar.update(more * arguments.num_samples, more),
        )
    print(predictions.text())
    if arguments.tsv is not None:
        write_atomically(arguments.tsv, predictions.tsv())
    if arguments.json is not None:
        write_atomically(arguments.json, predictions.to_json())
