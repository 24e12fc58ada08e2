"""A method of your own: one class, one line in METHODS. Here: both the denoised image and its mirror image are classified.

    python examples/own_method.py

It certifies two images of the zoo by `certify`, by the command line with the method's own flag, and draws the votes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.cli import main
from diffsmooth_trt.dtypes import Floats32, Labels
from diffsmooth_trt.engine import Engine
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.methods import METHODS, Denoised, MethodOptions, Rows, option


@dataclass(frozen=True, kw_only=True)
class MirroredOptions(MethodOptions):
    """The method's own options: each is a flag of the command line and an argument of `certify`."""

    mirror_weight: float = option(
        0.5, "mirrored: weight of the mirror image, 0 to 1 (default: %(default)s)", metavar="W"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.mirror_weight <= 1:
            raise InputError(f"--mirror-weight must lie in [0, 1], got {self.mirror_weight}")


class Mirrored(Denoised):
    """f(x + δ) = argmax (1 − w)·softmax F(D(x + δ)) + w·softmax F(mirrored D(x + δ)), on the CPU."""

    name = "mirrored"
    Options = MirroredOptions

    def __init__(self, denoiser: Engine, classifier: Engine, weight: float) -> None:
        super().__init__(denoiser, classifier)
        self.weight = weight
        self.identity |= {"mirror_weight": weight, "softmax": self.device.softmax}  # whatever decides a vote

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: MirroredOptions) -> Self:
        return cls(engines["engine"], engines["classifier"], options.mirror_weight)

    def labels(self, noisy: Floats32, rows: Rows) -> Labels:
        denoised = self.denoiser.run(noisy)
        mixed = np.zeros((self.batch, self.classes), np.float32)
        for image, weight in ((denoised, 1 - self.weight), (denoised[:, :, :, ::-1], self.weight)):
            softmax = np.empty_like(mixed)
            self.device.add_softmax(self.classifier.run(np.ascontiguousarray(image)), softmax, carry=False)
            mixed += np.float32(weight) * softmax
        found: Labels = self.device.winners(mixed)
        return found


METHODS["mirrored"] = Mirrored

if __name__ == "__main__":
    files: dict[str, Any] = {"engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DDS, "data": zoo.IMAGES}
    with dst.certify(**files, method="mirrored", mirror_weight=0.3, max=2, n0=20, n=100, out="mirrored.sqlite") as run:
        for result in run.results():
            print(result.image, result.predict, f"{result.radius:.4f}")
    print(dst.verify("mirrored.sqlite", fraction=1).verdict)
    flags = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    flags += ["--method", "mirrored", "--mirror-weight", "0.3", "--max", "2", "--n0", "20", "--n", "100"]
    raise SystemExit(main(["certify", *flags, "--out", "again.sqlite"]))
