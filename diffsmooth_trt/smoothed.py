"""The smoothed classifier for arrays: images in, certificates out, and no file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayImages, checked_pixels
from .certify.progress import NoProgress, Progress
from .certify.reach import check_reach
from .certify.stopping import Stopping
from .device import open_device
from .engine import ENGINE_SUFFIXES, Engine, open_engine
from .engine.backends.callable import open_callable
from .engine.choice import MOST_ROWS, EngineChoice
from .errors import InputError
from .images import ImageChoice
from .methods import METHODS, Method
from .noise import Key, check_noise_level
from .ranges import integer, plain
from .report.progress import ProgressBar
from .runs.config import method_options
from .runs.identity import facts_of, rows_note
from .runs.record import RunRecord
from .runs.run import check_noise, describe, draw
from .runs.store import RunStore

Base = Callable[[Any], Any] | str | Path
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Certificates:
    """What is certified of N images.

    prediction: int64 [N], −1 where it abstains. radius: float64 [N], ℓ2 in [0, 1] image units, 0.0 where it abstains: with
    probability 1 − alpha over the noise, no image nearer than that has another prediction. p_lower: float64 [N], the lower bound
    on the predicted class's probability under noise. samples: int64 [N], draws that each image took. decisions: for each image,
    one of "certified", "refuted", "undecided" for each preset radius, ascending. `record` is all that the run says of itself.
    """

    prediction: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_lower: NDArray[np.float64]
    samples: NDArray[np.int64]
    decisions: tuple[tuple[str, ...], ...]
    record: RunRecord = field(repr=False)

    def __len__(self) -> int:
        return len(self.prediction)

    def __repr__(self) -> str:
        stopping = self.record.stopping
        sure = self.prediction >= 0
        mean = f", mean radius {self.radius[sure].mean():.3f}" if sure.any() else ""
        drawn = f"n0={stopping.n0}, n={stopping.n}, alpha={stopping.alpha}, sigma={self.record.classifier.sigma}"
        return (
            f"Certificates of {len(self)} images: {int(sure.sum())} answered, {int((~sure).sum())} abstentions{mean}; {drawn}; "
            f"{_assumed(self.record)}"
        )


def _assumed(record: RunRecord) -> str:
    """What is to be known of the engines, in a phrase."""
    functions = [part for part, values in record.classifier.engines.items() if "callable" in values]
    known = "its noise key is in record.key"
    if functions:
        known = f"a function has no hash ({', '.join(functions)}): nothing can be verified later"
    return f"{rows_note(record.rows)}; {known}"


class SmoothedClassifier:
    """g(x) = argmax_c P(f(x + δ) = c), δ normal with standard deviation `sigma`, certified for arrays (Cohen et al. 2019).

    f: float32 `[B, C, H, W]`, images in [0, 1] plus noise that is not clipped, → integer labels `[B]` or logits
    `[B, classes]`; a NumPy or torch function, a torch module in eval mode, or an engine file. With `classifier`, another of
    those, f is the denoiser in front of it: images → images `[B, C, H, W]` in [0, 1]; with `unconditional`, f is the conditional
    denoiser of method "apndc", and `unconditional` the denoiser that it denoises by. classes: how many there are; needed only of
    a function that returns labels. sigma: image units, in [0.01, 4]; needed unless f is a denoiser's file, which says it.
    method: a name in `METHODS`, by default "rs", or "dds" with `classifier`; its own options are arguments too. batch: rows of a
    call of f. backend, device, precision, threads, allow_host_code: for engine files, see `open_engine`. Networks that are no
    engine files yet, as `certify` takes them, are exported once for a size of images, at the first call, into the folder `cache`.

    f has to be a function of each row by itself. A function has no hash, so nothing can be verified later; use `certify` on
    engine files for that. Engines are opened at the first call; `close`, or a `with` block, closes them. Raises InputError that
    names the argument.
    """

    def __init__(
        self,
        f: Base,
        *,
        classifier: Base | None = None,
        unconditional: Base | None = None,
        classes: int | None = None,
        sigma: float | None = None,
        method: str | None = None,
        batch: int = 64,
        backend: str | None = None,
        device: str = "cpu",
        precision: str | None = None,
        threads: int | None = None,
        allow_host_code: bool = False,
        cache: str | Path | None = None,
        **options: Any,
    ) -> None:
        name = method or ("rs" if classifier is None else "dds")
        if name not in METHODS:
            raise InputError(f"--method {name!r} is unknown: use one of {', '.join(METHODS)}")
        self.method = METHODS[name]
        integer("batch", plain(batch), 1, MOST_ROWS)
        self.engines = EngineChoice(
            batch=batch,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            allow_host_code=allow_host_code,
        )
        unknown = [each for each in options if not any(each in m.Options.names() for m in METHODS.values())]
        if unknown:
            raise InputError(f"SmoothedClassifier got an unexpected keyword argument {unknown[0]!r}: leave it out")
        self.options = method_options(self.method, options)
        partners = {"classifier": classifier, "unconditional": unconditional}
        self.bases = self._checked_bases(
            {"engine": f, **{slot: base for slot, base in partners.items() if base is not None}}
        )
        classes, sigma = plain(classes), plain(sigma)
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
            raise InputError(f"classes is {classes!r}, expected an integer of 2 or more")
        if sigma is not None:
            check_noise_level("sigma", sigma)
        elif not (self.method.states_sigma() and isinstance(self.bases["engine"], Path)):
            raise InputError("sigma is missing: give the noise level in image units, 0.25 for example")
        self.classes, self.sigma = classes, sigma
        self.cache = None if cache is None else Path(cache)
        self._opened: dict[Shape, Method] = {}

    def _checked_bases(self, given: dict[str, Base]) -> dict[str, Callable[[Any], Any] | Path]:
        slots, bases = self.method.slots, {}
        for slot in {**given, **slots}:
            name = _argument(slot)
            if slot not in slots:
                raise InputError(f"{name} is not used by method {self.method.name!r}: leave it out")
            if slot not in given and slots[slot].optional:
                continue
            if slot not in given:
                raise InputError(f"{name} is needed by method {self.method.name!r}: give the {slots[slot].role}")
            base = given[slot]
            if not (callable(base) or isinstance(base, str | Path)):
                raise InputError(
                    f"{name} is {type(base).__name__}, expected a function, a torch module in eval mode or an engine file"
                )
            if callable(base) and self.engines.device != "cpu":
                raise InputError(
                    f"--device {self.engines.device} is for engine files, {name} is a function, which chooses its own: leave it out"
                )
            bases[slot] = Path(base) if isinstance(base, str | Path) else base
        return bases

    def certify(
        self,
        x: NDArray[np.uint8],
        *,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        radius: float | tuple[float, ...] | None = None,
        tolerance: float | None = None,
        family_wise: bool = False,
        key: str | None = None,
        progress: bool | Progress = False,
    ) -> Certificates:
        """Certify images uint8 `[N, H, W, C]`, any N: class by n0 draws, radius by n fresh ones, at level alpha (CERTIFY).

        radius, tolerance, family_wise: see `Stopping`. key: 64 hexadecimal digits, by default fresh ones at every call: whoever
        chooses images after he has seen results under one key has chosen them by its noise. progress: True for a bar on a
        terminal. Raises InputError that names the argument, EngineError where f returns NaN, AuditError where rows that are
        evaluated again have other labels.
        """
        stopping = Stopping(
            n0=n0,
            n=n,
            alpha=alpha,
            radius=radius,  # type: ignore[arg-type]
            tolerance=tolerance,
            family_wise=family_wise,
        )
        with self._run(x, stopping, key, progress) as store:
            results = list(store.results())
            selection = 0 if not stopping.certifies else n0
            return Certificates(
                prediction=np.array([result.predict for result in results], np.int64),
                radius=np.array([result.radius or 0.0 for result in results]),
                p_lower=np.array([result.p_lower or 0.0 for result in results]),
                samples=np.array([result.trials + selection for result in results], np.int64),
                decisions=tuple(result.decisions for result in results),
                record=store.record,
            )

    def predict(
        self,
        x: NDArray[np.uint8],
        *,
        n: int = 1000,
        alpha: float = 0.001,
        key: str | None = None,
        progress: bool | Progress = False,
    ) -> NDArray[np.int64]:
        """The smoothed classifier's answers int64 `[N]`, −1 where n draws leave it open at level alpha (PREDICT)."""
        with self._run(x, Stopping(command="predict", n=n, alpha=alpha), key, progress) as store:
            return np.array([result.predict for result in store.results()], np.int64)

    def _run(self, x: NDArray[np.uint8], stopping: Stopping, key: str | None, progress: bool | Progress) -> RunStore:
        """A finished run on `x`, in memory."""
        images = ArrayImages(checked_pixels(x))
        method = self._method_for(x)
        check_noise(method, stopping)
        given = None if key is None else Key.parse(str(key))
        record = describe(facts_of(method), images, ImageChoice(), stopping, key=given)
        check_reach(stopping, record.conditions)
        store = RunStore.create(None, record)
        with ExitStack() as failed:
            failed.callback(store.close)
            with ExitStack() as shown:
                bar: Progress = NoProgress() if isinstance(progress, bool) else progress
                if progress is True:
                    bar = shown.enter_context(ProgressBar(stopping.command))
                draw(method, store, images, bar)
            failed.pop_all()
        return store

    def _method_for(self, x: NDArray[np.uint8]) -> Method:
        """The method over engines for images of the size of `x`, opened once a size."""
        height, width, channels = x.shape[1:]
        shape = (channels, height, width)
        if shape not in self._opened:
            method = self._open(shape)
            if method.input_shape != shape:
                takes = (*method.input_shape[1:], method.input_shape[0])
                method.close()
                raise InputError(
                    f"x has images {(height, width, channels)} [H, W, C], f takes {takes}: give images of that size"
                )
            self._opened[shape] = method
        return self._opened[shape]

    def _open(self, shape: Shape) -> Method:
        opened: dict[str, Engine] = {}
        try:
            for slot in self.bases:
                opened[slot] = self._engine(slot, shape)
                shape = opened[slot].facts.denoised_shape
            return self.method.of(opened, self.sigma, self.options)
        except BaseException:
            for engine in opened.values():
                engine.close()
            raise

    def _engine(self, slot: str, shape: Shape) -> Engine:
        base, role, chosen = self.bases[slot], self.method.slots[slot].role, self.engines
        sigma, batch = self.sigma if role == "denoiser" else None, int(chosen.batch)
        if not isinstance(base, Path):
            return open_callable(
                base, _argument(slot), role=role, input_shape=shape, classes=self.classes, sigma=sigma, batch=batch
            )
        return open_engine(
            self._exported(slot, base, shape),
            batch=batch,
            role=role,
            sigma=sigma,
            device=open_device(chosen.device),
            backend=chosen.backend,
            precision=chosen.precision,
            threads=chosen.threads,
            allow_host_code=chosen.allow_host_code,
        )

    def _exported(self, slot: str, base: Path, shape: Shape) -> Path:
        """The engine file of a base that is one, or is a network for images of a shape."""
        if base.suffix in ENGINE_SUFFIXES:
            return base
        from .exporting.cache import Cache, Wanted, engine_of

        _, height, width = shape
        if height != width:
            raise InputError(
                f"x has images of {width}×{height} pixels, {_argument(slot)} is exported for square ones: crop them"
            )
        wanted = Wanted(_argument(slot), self.method.slots[slot].role, self.sigma, lambda: height)
        return engine_of(base, wanted, Cache(self.cache)) or base

    def close(self) -> None:
        """Close the engines that are open."""
        for method in self._opened.values():
            method.close()
        self._opened = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        named = {_argument(slot): base for slot, base in self.bases.items()}
        of = ", ".join(
            f"{name}={base.name if isinstance(base, Path) else getattr(base, '__name__', type(base).__name__)}"
            for name, base in named.items()
        )
        functions = [name for name, base in named.items() if not isinstance(base, Path)]
        level = "its denoiser's" if self.sigma is None else self.sigma
        said = f"SmoothedClassifier({of}, method={self.method.name!r}, sigma={level}, batch={self.engines.batch})"
        return f"{said}: {', '.join(functions)} has no hash, nothing can be verified later" if functions else said


def _argument(slot: str) -> str:
    """The argument that gives an engine."""
    return "f" if slot == "engine" else slot
