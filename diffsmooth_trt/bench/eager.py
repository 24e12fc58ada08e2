"""The papers' loop in eager fp32 PyTorch, for the checkpoints that the engines were made from."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import zoo
from ..certify.batch import Span, fill
from ..certify.blocks import Block
from ..device import device_number
from ..errors import InputError
from ..exporting.classifier import load_classifier
from ..exporting.denoiser import read_family
from ..exporting.graph.one_shot import SourceDenoiser
from ..exporting.graph.preprocessing import ClassifierWithPreprocessing, Overrides
from ..images import Images, flat_pixels
from ..methods import Method
from ..noise import SELECTION, Key, grid_law
from .config import BenchConfig, EagerChoice
from .result import EAGER, Row
from .timings import Timings

LEAST_AGREEMENT = 0.5  # of labels of one noisy batch: networks for other data agree less; other weights are as fast


class Eager:
    """Denoiser and classifier, or the classifier alone, as the papers' code runs them, on the bench's device.

    Raises InputError for checkpoints that do not load, or that are of another network than the engines: labels are compared on
    one batch of `method`, of the zoo's images with noise.
    """

    def __init__(self, config: BenchConfig, method: Method) -> None:
        number = device_number(config.engines.device)
        self.device = torch.device("cpu" if number is None else f"cuda:{number}")
        if number is not None and not torch.cuda.is_available():
            raise InputError("this torch sees no GPU: leave the checkpoints out, or install torch for CUDA")
        if config.engines.threads is not None:
            torch.set_num_threads(config.engines.threads)
        self.sigma, self.shape, self.classes = float(method.sigma), method.input_shape, method.classes
        self.model = _model(config.eager, method).to(self.device).eval()
        self.agreement = self._agreement(method)

    def at(self, batch: int) -> EagerSubject:
        """The loop at `batch` rows a step."""
        return EagerSubject(self, batch)

    def labels(self, rows: Tensor) -> Tensor:
        """int64 `[B]` of noisy images float32 `[B, C, H, W]`."""
        with torch.inference_mode(), torch.device(self.device):
            labels: Tensor = self.model(rows).argmax(1)
        return labels

    def _agreement(self, method: Method) -> float:
        device, batch = method.device, method.batch
        noisy = np.empty((batch, *self.shape), np.float32)
        spans = [
            Span(Block(row, SELECTION, 0, 1), each, row, row + 1, 0) for row, each in enumerate(self._pixels(batch))
        ]
        rows = fill(grid_law(self.sigma), Key(0), spans, noisy)
        given = np.ascontiguousarray(noisy.transpose(0, 2, 3, 1)) if method.noisy_nhwc else noisy
        with device.errors():
            ours = device.asnumpy(method.labels(device.asarray(given), rows))
        try:
            theirs = self.labels(torch.from_numpy(noisy).to(self.device)).cpu().numpy()
        except RuntimeError as error:  # torch's word for shapes that do not fit
            raise InputError(
                f"the checkpoints' networks take no images {self.shape} ({str(error).splitlines()[0]}): give those that the "
                "engines were exported from"
            ) from error
        share = float((ours == theirs).mean())
        if share < LEAST_AGREEMENT:
            raise InputError(
                f"the checkpoints give {share:.0%} of {batch} noisy images the label that the engines give: give those that the "
                "engines were exported from, with the same --family, --config and --arch"
            )
        return share

    def _pixels(self, batch: int) -> list[NDArray[np.uint8]]:
        """Images for a batch, flat: the zoo's, or random pixels where the engines take other shapes than theirs."""
        channels, height, width = self.shape
        if channels == 3 and height == width:
            images = [flat_pixels(image) for image in Images(zoo.IMAGES, limit=batch, resize=height)]
        else:
            drawn = np.random.Generator(np.random.Philox(0)).integers(0, 256, (1, channels * height * width), np.uint8)
            images = [*drawn]
        return [images[row % len(images)] for row in range(batch)]


def _model(choice: EagerChoice, method: Method) -> nn.Module:
    """Noisy images `[B, 3, H, W]` → logits, by the untouched networks of the checkpoints."""
    loaded = load_classifier(str(choice.arch), str(choice.classifier_checkpoint), Overrides())
    side = method.classifier.facts.input_shape[1]
    classifier = ClassifierWithPreprocessing(loaded.net, loaded.preprocessing, side, source=True)
    if choice.checkpoint is None or choice.family is None:
        return classifier
    family = read_family(choice.family, choice.config, choice.checkpoint)
    denoiser = SourceDenoiser(family, family.load(choice.checkpoint)[0], family.level(float(method.sigma), False))
    return nn.Sequential(denoiser, classifier)


class EagerSubject:
    """One image, `torch.randn` noise, votes counted on the host one by one: as the papers' code does it."""

    def __init__(self, eager: Eager, batch: int) -> None:
        self.eager, self.batch, self.timings = eager, batch, Timings()
        self.image = torch.full(eager.shape, 0.5, device=eager.device)
        self.counts = np.zeros(eager.classes, dtype=int)
        self._step()

    def _step(self) -> float:
        start = time.perf_counter()
        rows = self.image.repeat((self.batch, 1, 1, 1))
        labels = self.eager.labels(rows + torch.randn_like(rows) * self.eager.sigma).cpu().numpy()
        for label in labels:
            self.counts[label] += 1
        return time.perf_counter() - start

    def turn(self, seconds: float) -> None:
        """Time steps, one after the other."""
        self.timings.rates.append(self.timings.alone(self._step, self.batch, seconds))

    def row(self) -> Row:
        """What the turns gave."""
        return self.timings.row(EAGER, self.batch, agreement=self.eager.agreement)
