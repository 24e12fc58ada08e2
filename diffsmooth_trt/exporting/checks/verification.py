"""An exported file against its torch source on real noised images: how far off, and how many labels are the same."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ... import zoo
from ...dtypes import Floats32
from ...engine import Engine, EngineFacts, open_engine
from ...errors import EngineError, InputError, message_of
from ...stages import stage
from ..writers.onnx_half import INLINE_BYTES, Request
from .compare import Expected, compare
from .denoising import SAMPLES, denoising
from .inputs import ConditionalCheck, ImageCheck, Inputs
from .noised import VERIFICATION, fitting_pixels, noised, noised_conditional

# Multiply-adds that the source may spend: 2,000 images of the 50 M CIFAR-10 UNet, 23 of the 552 M one at 224×224, which
# take eager PyTorch some minutes on two cores. Counted, not timed: how many images were compared never depends on speed.
BUDGET = 2 * 10**13
ABSURD = 0.1  # of the mean magnitude of the source's outputs: a mean difference beyond it is a broken graph
SLICE = 32  # images that the source takes at once, however many the file takes: its feature maps are the most memory
UNUSABLE = "the network returns NaN or infinity on noisy images: the checkpoint is not usable"
SIMULATION = "simulation"  # half precision in its own arithmetic, in ONNX Runtime
Openers = dict[str, Callable[[int], Engine]]  # by backend: opens the file for so many rows


def multiply_adds(check: ImageCheck) -> int:
    """Multiply-adds of the source network for one image: those that torch sees, and those that its modules say they have."""
    example = tuple(torch.from_numpy(given) for given in next(check.batches(check.rows)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        check.source(*example)
    seen = int(counter.get_total_flops()) // (2 * check.rows)
    return max(seen + sum(int(getattr(module, "multiply_adds", 0)) for module in check.source.modules()), 1)


def affordable(check: ImageCheck, wanted: int) -> int:
    """`wanted` images, or as many as the budget allows, at least one."""
    return max(1, min(wanted, BUDGET // multiply_adds(check)))


class Unfit(InputError):
    """The exported graph runs, and what it returns is not what the network returns."""


def source_outputs(check: ImageCheck, inputs: Inputs, at_once: int) -> Floats32:
    """What the source makes of `inputs`, float32, `at_once` rows at a time: its feature maps may outweigh its parameters.

    Those rows are shared out among torch's threads, a network each, as far as they go: threads inside of an operator wait for
    one another at its end, and where others use the machine they burn most of their time in that.
    """
    threads, rows = torch.get_num_threads(), len(inputs[0])
    workers = max(1, min(threads, rows, at_once))
    size = min(max(1, at_once // workers), -(-rows // workers))

    def answer(at: int) -> Floats32:
        with torch.no_grad():  # a thread's own
            outputs: Floats32 = check.source(*(torch.from_numpy(part[at : at + size]) for part in inputs)).numpy()
            return outputs

    torch.set_num_threads(max(1, threads // workers))  # before the workers begin, who take it over
    try:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(answer, range(0, rows, size)))
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(parts)


def random_batches(check: ImageCheck, rows: int, at_once: int) -> Iterator[Expected]:
    """The batches of `check` with `rows` rows, of which the first `check.rows` count; InputError where the source gives NaN."""
    for inputs in check.batches(rows):
        want = source_outputs(check, tuple(part[: check.rows] for part in inputs), at_once)
        if not np.isfinite(want).all():
            raise InputError(UNUSABLE)
        yield Expected(inputs, want)


@dataclass
class Verification:
    """Compares files of one export with `check.source`; see `export_denoiser` for what `request` chooses."""

    check: ImageCheck
    facts: EngineFacts
    request: Request
    batch: int | None
    data: str = "random"
    pixels: NDArray[np.uint8] | None = None
    before: Engine | None = None
    after: Engine | None = None
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        shape = self.facts.input_shape
        small = shape[1] * shape[2] <= 64 * 64
        self.rows = self.batch or (32 if small else 2)
        source = self.request.verify_data
        if source is None and shape == (3, 32, 32):
            source = zoo.IMAGES
        if source is not None:
            self.pixels = fitting_pixels(source, shape, self.request.verify_samples)
            self.data = Path(source).name

    def check_companions(self) -> None:
        """Refuse what was asked for and does not fit, before the long work."""
        if self.request.verify_classifier is not None or self.request.verify_denoiser is not None:
            with contextlib.ExitStack() as stack:
                self.open_companions(stack)
        self.before = self.after = None

    def open_companions(self, stack: contextlib.ExitStack) -> None:
        """Open the classifier behind a denoiser, or the denoiser in front of a classifier, where there is one."""
        role, shape = self.facts.role, self.facts.input_shape
        classifier, denoiser = self.request.verify_classifier, self.request.verify_denoiser
        if classifier is not None and role != "denoiser":
            raise InputError("--verify-classifier goes with denoisers of one noise level: leave it out")
        if denoiser is not None and role != "classifier":
            raise InputError("--verify-denoiser goes with classifiers: leave it out")
        if (
            classifier is None
            and role == "denoiser"
            and self.facts.denoised_shape == (3, 32, 32)
            and self.pixels is not None
        ):
            classifier = zoo.CLASSIFIER_DDS
        if classifier is not None:
            self.after = stack.enter_context(self._companion(Path(classifier), "classifier"))
        if denoiser is not None:
            self.before = stack.enter_context(self._companion(Path(denoiser), "denoiser"))
            self.check = ImageCheck(self.check.source, shape, float(self.before.facts.sigma or self.check.sigma))

    def _companion(self, path: Path, role: str) -> Engine:
        sigma = None if role == "classifier" else self.check.sigma
        try:
            engine = open_engine(path, batch=self.rows, role=role, precision="fp32")  # its own facts say σ
        except InputError:
            engine = open_engine(path, batch=self.rows, role=role, sigma=sigma)
        return self._fitting(engine)

    def _fitting(self, engine: Engine) -> Engine:
        behind = engine.facts.role == "classifier"
        first, second = (self.facts, engine.facts) if behind else (engine.facts, self.facts)
        if first.denoised_shape != second.input_shape:
            engine.close()
            raise InputError(
                f"{engine.path.name} does not fit: the denoiser returns {first.denoised_shape}, the classifier takes "
                f"{second.input_shape}; give another one"
            )
        return engine

    def inputs(
        self, count: int, phase: int = VERIFICATION, pixels: NDArray[np.uint8] | None = None
    ) -> Iterator[Inputs]:
        """Batches of what the network takes, `count` rows in all: `pixels` noised at the very σ, random ones where None."""
        if pixels is None:
            yield from self.check.batches(self.check.rows if self.batch is None else self.batch)
        elif isinstance(self.check, ConditionalCheck):
            check = self.check
            yield from noised_conditional(pixels, check.sigma, check.labels, count, self.rows, phase)
        else:
            for noisy in noised(pixels, self.check.sigma, count, self.rows, phase):
                yield (noisy if self.before is None else self.before.run(noisy),)

    def report(self, openers: Openers) -> dict[str, Any]:
        """Compare the file in each backend with the source; returns what goes into `details["verification"]`.

        Raises InputError for NaN and infinity and for differences that only a broken graph makes.
        """
        report: dict[str, Any] = {"data": self.data}
        with contextlib.ExitStack() as stack:
            if self.pixels is not None:
                self.open_companions(stack)
            # One after the other: threads of PyTorch and of the backends hinder each other.
            expected = self._expected()
            trials, failed = [], {}
            for backend, opened in openers.items():
                try:
                    with opened(len(expected[0].inputs[0])) as engine:
                        trials.append(
                            self._trial(engine, expected) | ({"backend": backend} if backend == SIMULATION else {})
                        )
                except (Unfit, EngineError) as error:
                    said = message_of(error).split(":")[0]
                    raise InputError(f"{said}: nothing was written; use another --precision") from None
                except InputError as error:
                    failed[backend] = error.message
        if not trials:
            raise InputError(f"no backend here runs the exported graph: {'; '.join(failed.values())}"[:400])
        if failed:
            report["not_run"] = failed
        images = sum(len(batch.want) for batch in expected)
        report |= {"images": images, "backends": trials}
        if self.facts.role == "denoiser" and self.pixels is not None:
            count = min(max(1, affordable(self.check, 8 * SAMPLES) // 8), self.request.verify_samples)
            seen = denoising(self.check.source, self.pixels, self.check.sigma, count, self.check.others)
            report |= {} if seen is None else {"denoising": seen.recorded()}
        if self.labelled:
            report["classifier"] = self.after.path.name if self.after is not None else "itself"
        if self.before is not None:
            report["denoiser"] = self.before.path.name
        return report

    @property
    def labelled(self) -> bool:
        """Whether there are labels to compare."""
        return self.pixels is not None and (self.facts.role == "classifier" or self.after is not None)

    def _expected(self) -> list[Expected]:
        """Every batch of inputs, and what the source makes of it."""
        count = affordable(self.check, self.request.verify_samples) if self.pixels is not None else 0
        expected: list[Expected] = []
        with stage("the source's answers", count or None) as advance:
            for inputs in self.inputs(count, pixels=self.pixels):
                rows = len(inputs[0]) if self.pixels is None else min(self.rows, count - len(expected) * self.rows)
                want = source_outputs(self.check, tuple(part[:rows] for part in inputs), SLICE)
                expected.append(Expected(inputs, want, self._labels(want) if self.labelled else None))
                advance(rows)
        return expected

    def _trial(self, engine: Engine, expected: list[Expected]) -> dict[str, Any]:
        """What goes into the facts about one backend; raises Unfit, or EngineError for NaN."""
        with stage(f"comparing in {engine.backend}", sum(len(batch.want) for batch in expected)) as advance:
            comparison = compare(
                _counted(expected, advance),
                engine.denoise if self.facts.role == "conditional" else engine.run,
                name=engine.path.name,
                failure=Unfit(f"{engine.path.name} returned NaN or infinity in {engine.backend}"),
                label=self._labels if self.labelled else None,
            )
        if comparison.mean > ABSURD * comparison.magnitude:
            raise Unfit(
                f"{engine.path.name} in {engine.facts.precision} differs from its source by {comparison.mean:.2g} on average "
                f"in {engine.backend}, where outputs are {comparison.magnitude:.2g}"
            )
        trial = {"backend": engine.backend, "precision": str(engine.identity["precision"]), **comparison.differences}
        return trial if comparison.agreement is None else {**trial, "same_labels": round(comparison.agreement, 5)}

    def _labels(self, outputs: Floats32) -> NDArray[np.int64]:
        if self.after is None:
            return np.asarray(outputs.argmax(1), np.int64)
        missing = self.after.batch - len(outputs)
        full = np.concatenate([outputs, np.repeat(outputs[-1:], missing, axis=0)]) if missing else outputs
        return np.asarray(self.after.run(np.ascontiguousarray(full))[: len(outputs)].argmax(1), np.int64)


def _counted(expected: list[Expected], advance: Callable[[int], None]) -> Iterator[Expected]:
    """The batches, each counted when the next one is asked for."""
    for batch in expected:
        yield batch
        advance(len(batch.want))


def on_random(check: ImageCheck, backend: str, precision: str, difference: object) -> dict[str, Any]:
    """What goes into `details["verification"]` where only random images were compared."""
    seen = {"backend": backend, "precision": precision, "max_difference": difference}
    return {"data": "random", "images": check.rows * check.count, "backends": [seen]}


def one_file(path: Path) -> bool:
    """Whether the .onnx file at `path` holds its own weights, and so is no large one."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.stem)) <= INLINE_BYTES


def onnx_backends(path: Path) -> Openers:
    """The backends here that run .onnx files."""
    # Large files in one backend, without another's copies of the weights.
    backends = ("onnxruntime", "openvino") if one_file(path) else ("onnxruntime",)
    return {
        backend: partial(_open_in, path, backend)
        for backend in backends
        if importlib.util.find_spec(backend) is not None
    }


def simulation(path: Path, precision: str) -> Callable[[int], Engine]:
    """Opens the file at `path`, which simulates another in `precision` (half_arithmetic.py)."""

    def opened(rows: int) -> Engine:
        engine = _open_in(path, "onnxruntime", rows)
        engine.identity["precision"] = precision
        return engine

    return opened


def _open_in(path: Path, backend: str, rows: int) -> Engine:
    return open_engine(path, batch=rows, backend=backend)
