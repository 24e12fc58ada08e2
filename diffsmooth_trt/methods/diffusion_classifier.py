"""Diffusion classifiers: argmax over classes of minus the weighted denoising loss (Chen et al. 2024).

`dc` takes the noisy image as it is; `epndc` uses the exact posterior of the noisy image, `apndc` the approximate one, by way of
one unconditional denoising. Units are the model's, [−1, 1], in which noise σ has the level s_τ = 2σ.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..device import Array
from ..dtypes import Floats32, Floats64, Labels
from ..engine import Engine
from ..errors import InputError
from ..noise import DIFFUSION_CLASSIFIER, FIXED_DIFFUSION_CLASSIFIER, SELECTION, GridLaw, Key, grid_law, seed_key
from ..noise.counters import fresh_words
from ..noise.sampler import grid_noise
from ..ranges import plain
from .base import Method, Rows, Slot, option
from .diffusion_terms import (
    PUBLISHED_SIEVE,
    PUBLISHED_STEPS,
    S_MIN,
    WEIGHTS,
    Terms,
    default_drop,
    exact_terms,
    lipschitz_constant,
    plain_terms,
    sift_terms,
)
from .own_noise import OwnNoise

PUBLISHED_KEPT, PUBLISHED_SIGMA = 10, 0.25
SIFTS = ("none", "published", "spread")
NOTES = 5


def integers(text: str) -> tuple[int, ...]:
    """The integers of a text like 0,3,5. Raises ValueError for any other."""
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Settings(OwnNoise):
    """Options of the diffusion classifiers."""

    steps: int = option(PUBLISHED_STEPS, "dc, epndc, apndc: noise levels (default: %(default)s)", metavar="N")
    s_max: float = option(3.0, "… the highest, in [-1, 1] units (default: %(default)s)", metavar="S")
    weights: str = option("paper", "… of the levels; published: as the published code has them", choices=WEIGHTS)
    sift: str = option("none", "… drop classes early: the published rule, or by the terms' spread", choices=SIFTS)
    sift_margin: float = option(1.5, "… how far behind is too far (spread; default: %(default)s)", metavar="Z")
    classes: tuple[int, ...] | None = option(
        None, "… choose among these only (default: all)", type=integers, metavar="Y,Y,…"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("weights", WEIGHTS), ("sift", SIFTS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is {getattr(self, name)!r}: use one of {', '.join(choices)}")
        fewest = 3 if self.weights == "published" else 2
        if not fewest <= self.steps <= 10**5:
            raise InputError(f"--steps must be {fewest} to 100000, got {self.steps}: 126 is the papers'")
        if self.sift == "published" and self.weights != "published":
            raise InputError("--sift published weighs as the published code does: add --weights published")
        if not (math.isfinite(self.sift_margin) and self.sift_margin > 0):
            raise InputError(f"--sift-margin must be above 0, got {self.sift_margin}")
        if self.classes is not None:
            if not (isinstance(self.classes, Iterable) and all(type(plain(each)) is int for each in self.classes)):
                raise InputError(f"--classes takes integers, got {self.classes!r}")
            chosen = tuple(sorted(plain(each) for each in self.classes))
            if len(set(chosen)) < max(2, len(chosen)) or chosen[0] < 0:
                raise InputError(f"--classes needs two or more different ones from 0 on, got {list(self.classes)}")
            object.__setattr__(self, "classes", chosen)

    @property
    def noises(self) -> int:
        return max(self.steps, PUBLISHED_SIEVE + PUBLISHED_STEPS)

    def check_run(self, *, sigma: float | None, draws: int, smoothing: bool) -> None:
        lowest = 2 * float(sigma or 0)
        if not (math.isfinite(self.s_max) and self.s_max > lowest):
            raise InputError(f"--s-max must be above 2·sigma = {lowest}, got {self.s_max}: 3 is usual")
        if not smoothing and self.sift != "none":
            raise InputError(
                "--certificate lipschitz is for certify --method dc without --sift: nothing else has that bound"
            )
        super().check_run(sigma=sigma, draws=draws, smoothing=smoothing)


class DiffusionClassifier(Method):
    """f(x) = argmax_y −Σ_i w_i · mean‖residual_i(y)‖², ties to the lowest class; a NaN loss makes the vote void.

    The noises ε_i, one a step, are shared by the classes. `fixed` ones are part of f, shared by all samples too (phase 33,
    sample word = step) under the key made of the public classifier seed; `fresh` ones are a sample's own, under the run's key
    (phase 17, sample word by `noise.counters.fresh_words`). They are of the grid Gaussian with σ = 1.
    Losses are summed in float64 in the order of the steps, whatever the batches.
    """

    slots: ClassVar[Mapping[str, Slot]] = {"engine": Slot("denoiser", "conditional")}
    Options = Settings
    behind = 5e-4  # of the published sieve: how far behind is too far,
    kept: int | None = None  # and how many classes it leaves at most

    def __init__(
        self, engine: Engine, sigma: float, settings: Settings, taken: tuple[int, int, int] | None = None
    ) -> None:
        """`taken` is the shape of the noisy images, where it is not the engine's."""
        super().__init__(engine, taken or engine.facts.input_shape, sigma)
        self.engine, self.settings = engine, settings
        self.void = self.classes
        self.candidates = np.arange(self.classes) if settings.classes is None else np.array(settings.classes)
        if settings.classes is not None and (self.candidates.min() < 0 or self.candidates.max() >= self.classes):
            raise InputError(f"--classes has {max(settings.classes)}, {engine.name} knows 0 to {self.classes - 1}")
        self.s_tau = 2 * sigma
        if settings.s_max <= self.s_tau:
            raise InputError(f"--s-max is {settings.s_max}, expected above 2·sigma = {self.s_tau}: 3 is usual")
        self.terms = self._terms()
        self.law = grid_law(1.0)
        self.size = int(np.prod(engine.facts.input_shape))
        self.images = self.device.empty((self.batch, *self.input_shape))
        self.sieve: Terms | None = None
        if settings.sift == "published":
            self.sieve, self.terms = self._sift_terms()
        self.noises = self.terms.first_noise + len(self.terms.levels)  # words that a sample's own noises may take
        self.evaluations = self.votes = 0
        self.notes: list[str] = []
        self.identity |= self._chosen() | {
            "local_noise": settings.local_noise,
            "losses": f"numpy {np.__version__}",  # a near tie may fall by their last digit
        }

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: Settings) -> Self:
        return cls(engines["engine"], float(sigma or 0.0), options)

    def _chosen(self) -> dict[str, Any]:
        """The options that decide a vote, for the identity."""
        settings = self.settings
        options: dict[str, Any] = {name: getattr(settings, name) for name in ("steps", "s_max", "weights", "sift")}
        if settings.weights == "published":
            options["published"] = 2  # 1 had its density only
        if settings.sift == "spread":
            options["sift_margin"] = settings.sift_margin
        if settings.classes is not None:
            options["classes"] = list(settings.classes)
        if not settings.fresh:
            options["classifier_seed"] = settings.classifier_seed
        return options

    @property
    def engines(self) -> dict[str, Engine]:
        return {"denoiser": self.engine}

    @property
    def noisy(self) -> Array:
        return self.images

    @property
    def noisy_nhwc(self) -> bool:
        return False

    @property
    def capturable(self) -> bool:
        return False  # which evaluations follow depends on those before

    @property
    def spent(self) -> tuple[int, int]:
        return self.votes, self.evaluations

    def own_laws(self) -> list[GridLaw]:
        return [self.law]

    @abstractmethod
    def _terms(self) -> Terms:
        """The loss without a sieve."""

    def _sift_terms(self) -> tuple[Terms, Terms]:
        """The losses of the published sieve and of what is left after it."""
        return sift_terms(self.s_tau, self.settings.s_max, self.settings.steps)

    def _reference(self, noisy: Floats32) -> Floats32:
        """What the loss compares denoised images with, [R, d] in model units, of noisy images [R, C, H, W] in [0, 1] units."""
        return 2 * noisy.reshape(len(noisy), -1) - 1

    def labels(self, noisy: Array, rows: Rows) -> Array:
        """As `Method.labels`. The losses are NumPy's on every device: a GPU evaluates the network only."""
        device = self.device
        phases, images, samples = (device.asnumpy(words) for words in (rows.phases, rows.images, rows.samples))
        rows = Rows(phases, images, samples, rows.key)
        return device.asarray(self._labels(device.asnumpy(noisy), rows))

    def _labels(self, noisy: Floats32, rows: Rows) -> Labels:
        used = _drawn(rows)  # padding would cost as many evaluations as votes do
        losses = self.losses(noisy[:used], rows.chosen(slice(used)))
        labels: Labels = self.candidates[np.argmin(losses, axis=1)].astype(np.int64)
        labels[np.isnan(losses).any(axis=1)] = self.classes  # void
        return np.concatenate([labels, np.repeat(labels[-1:], len(noisy) - used)])

    def losses(self, noisy: Floats32, rows: Rows) -> Floats64:
        """Losses float64 [R, candidates] of noisy images [R, C, H, W], R ≤ batch, in [0, 1] units.

        inf where a class was sifted out, NaN where a loss came out so.
        """
        self.votes += len(noisy)
        work = _Losses(self, self._reference(noisy), rows)
        if self.sieve is not None:
            return _published(work, self.sieve, self.behind, self.kept)
        if self.settings.sift == "spread":
            return _spread(work, self.settings.sift_margin)
        work.add(self.terms, np.arange(len(self.terms.levels)))
        return work.total

    def evaluated(self, x: Floats32, levels: Floats32, labels: Labels) -> Floats32:
        """D(x; s, y) float32 [R, d] of at most an engine batch; its last row is repeated where it is short."""
        fill = np.minimum(np.arange(self.engine.batch), len(x) - 1)
        self.evaluations += len(x)
        shape = (len(fill), *self.engine.facts.input_shape)
        answer = self.engine.denoise(x[fill].reshape(shape), levels[fill], labels[fill])
        return answer.reshape(len(fill), self.size)[: len(x)]

    def noise(self, rows: Rows, number: int) -> Floats32:
        """ε of step `number` for each row, float32 [batch, d], or [1, d] where it is fixed; no two samples share a fresh one."""
        if self.settings.fresh:
            samples = fresh_words(rows.words, self.noises, number)
            steps = grid_noise(self.law, rows.key, DIFFUSION_CLASSIFIER, rows.images, samples, self.size)
        else:
            place = (np.zeros(1, np.uint64), np.array([number], np.uint64))
            key = seed_key(self.settings.classifier_seed)
            steps = grid_noise(self.law, key, FIXED_DIFFUSION_CLASSIFIER, *place, self.size)
        return steps.astype(np.float32) / np.float32(255)

    def note(self, text: str) -> None:
        """Keep what the user has to know about void votes, the first few times."""
        if len(self.notes) < NOTES:
            self.notes.append(text)


class Dc(DiffusionClassifier):
    """`dc`: s_i evenly spaced from 1e-4 on, residual D(x + s_i·ε_i; s_i, y) − x."""

    name = "dc"
    certificates = ("smoothing", "lipschitz")

    @property
    def lipschitz_constant(self) -> float:
        return lipschitz_constant(self.terms)

    def margins(self, clean: Floats32, images: NDArray[np.uint64]) -> list[tuple[int, float]]:
        rows = Rows(np.full_like(images, SELECTION), images, np.zeros_like(images), Key(0))  # noise is fixed: no key
        margins = []
        for losses in self.losses(clean, rows):
            if np.isnan(losses).any():
                margins.append((-1, 0.0))
                continue
            first, second = np.sort(losses)[:2]
            margins.append((int(self.candidates[np.argmin(losses)]), float(second - first)))
        return margins

    def _terms(self) -> Terms:
        chosen = self.settings
        if chosen.s_max <= S_MIN:
            raise InputError(f"--s-max is {chosen.s_max}, expected above the lowest level, {S_MIN}: 3 is usual")
        return plain_terms(S_MIN, chosen.s_max, chosen.steps, chosen.weights)

    def _sift_terms(self) -> tuple[Terms, Terms]:
        return sift_terms(S_MIN, self.settings.s_max, self.settings.steps)


@dataclass(frozen=True, kw_only=True)
class EpndcSettings(Settings):
    """Options of epndc."""

    drop_steps: int | None = option(
        None, "epndc: leave out the first levels (default: 5 of 126)", type=int, metavar="N"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_steps is not None and self.drop_steps < 1:
            raise InputError(f"--drop-steps must be at least 1, got {self.drop_steps}: the first pair has no posterior")
        if self.sift == "published":
            raise InputError("--sift published is for --method dc, apndc, got epndc: use --sift spread")


class Epndc(DiffusionClassifier):
    """`epndc`: the exact posterior of the noisy image, by pairs of levels (`exact_terms`)."""

    name = "epndc"
    Options = EpndcSettings
    settings: EpndcSettings

    @property
    def _drop(self) -> int:
        return self.settings.drop_steps or default_drop(self.settings.steps, self.settings.weights)

    def _chosen(self) -> dict[str, Any]:
        return super()._chosen() | {"drop_steps": self._drop}

    def _terms(self) -> Terms:
        chosen, drop = self.settings, self._drop
        used = chosen.steps - 1 - (chosen.weights == "published")  # the published code leaves out the last pair
        if drop >= used:
            raise InputError(
                f"--drop-steps is {drop} of --steps {chosen.steps}, expected to leave a pair: use more steps"
            )
        return exact_terms(self.s_tau, chosen.s_max, chosen.steps, drop, chosen.weights)


class Apndc(DiffusionClassifier):
    """`apndc`: the approximate posterior, as `dc` from x̂0 = D(x_τ; s_τ), denoised without a class.

    By the network itself, with its null class, or as in the paper by a second, `unconditional` one: a denoiser folded for sigma,
    which may take images of another size and return them at the network's.
    """

    name = "apndc"
    slots: ClassVar[Mapping[str, Slot]] = {
        **DiffusionClassifier.slots,
        "unconditional": Slot("unconditional", "denoiser", optional=True),
    }
    behind, kept = 5e-5, PUBLISHED_KEPT

    def __init__(self, engine: Engine, sigma: float, settings: Settings, unconditional: Engine | None = None) -> None:
        self.unconditional = unconditional
        super().__init__(
            engine, sigma, settings, None if unconditional is None else self._checked(engine, unconditional)
        )
        trained = engine.facts.details.get("null_class_trained", engine.facts.family != "edm")
        if unconditional is None and not trained:
            self.note(
                f"{engine.name} was not trained without a class, which apndc denoises with here: give the paper's second network "
                "by --unconditional"
            )

    @classmethod
    def of(cls, engines: Mapping[str, Engine], sigma: float | None, options: Settings) -> Self:
        return cls(engines["engine"], float(sigma or 0.0), options, engines.get("unconditional"))

    @staticmethod
    def _checked(engine: Engine, unconditional: Engine) -> tuple[int, int, int]:
        """The shape of images that the second network takes; InputError unless what it returns fits the first one."""
        returned, taken = unconditional.facts.denoised_shape, engine.facts.input_shape
        if returned != taken:
            raise InputError(
                f"--unconditional {unconditional.name} returns images {returned}, {engine.name} takes {taken}: export it with "
                f"--resize-to {taken[1]}"
            )
        if unconditional.device is not engine.device:
            raise InputError(f"{unconditional.name} and {engine.name} are on two devices: open both on one")
        return unconditional.facts.input_shape

    @property
    def engines(self) -> dict[str, Engine]:
        return super().engines | ({} if self.unconditional is None else {"unconditional": self.unconditional})

    def _terms(self) -> Terms:
        if self.unconditional is None and self.engine.null_class is None:
            raise InputError(
                f"{self.engine.name} has no null class, which apndc denoises with: give a second network by --unconditional, or "
                "use epndc"
            )
        if self.settings.sift == "published" and self.sigma != PUBLISHED_SIGMA:
            raise InputError(
                f"--sift published denoises at the level of --sigma {PUBLISHED_SIGMA} whatever sigma is, got {self.sigma}: "
                "use --sift spread"
            )
        return plain_terms(self.s_tau, self.settings.s_max, self.settings.steps, self.settings.weights)

    def _reference(self, noisy: Floats32) -> Floats32:
        if self.unconditional is None:
            level = np.full(len(noisy), self.s_tau, dtype=np.float32)
            return self.evaluated(super()._reference(noisy), level, np.full(len(noisy), self.engine.null_class))
        fill = np.minimum(np.arange(self.unconditional.batch), len(noisy) - 1)
        denoised = self.unconditional.run_on_host(noisy[fill])[: len(noisy)]
        self.evaluations += len(noisy)
        if self.unconditional.output_nhwc:
            denoised = denoised.transpose(0, 3, 1, 2)
        return super()._reference(denoised)


def _drawn(rows: Rows) -> int:
    """How many rows there are before the repetitions of the last one that fill a batch."""
    draws = np.stack([rows.phases, rows.images, rows.samples])
    return len(draws[0]) - int(np.cumprod((draws == draws[:, -1:]).all(axis=0)[::-1]).sum()) + 1


class _Losses:
    """Running losses of a batch of samples; evaluations fill whole engine batches across steps, samples and classes.

    A step's terms are added when all of them are there, so that nothing depends on how batches cut them.
    """

    def __init__(self, method: DiffusionClassifier, reference: Floats32, rows: Rows) -> None:
        self.method, self.reference, self.rows = method, reference, rows
        count = (len(reference), len(method.candidates))
        self.total: Floats64 = np.zeros(count)
        self.spread: Floats64 = np.zeros(len(reference))
        self.alive = np.ones(count, dtype=bool)

    def add(self, terms: Terms, steps: NDArray[np.int64], rows: NDArray[np.bool_] | None = None) -> None:
        """Add the terms of `steps`, in that order, to the losses of the classes still in question, of the samples `rows`."""
        batch = self.method.engine.batch
        samples, classes = np.nonzero(self.alive if rows is None else self.alive & rows[:, None])
        waiting: list[tuple[int, int]] = []  # (step, which of the pairs), in order
        opened: dict[int, tuple[Floats32, Floats32, Floats64]] = {}
        for step in steps.tolist():
            noise = self.method.noise(self.rows, terms.first_noise + step)
            x = (self.reference + np.float32(terms.noise[step]) * noise).astype(np.float32)
            opened[step] = noise, x, np.zeros(self.total.shape)
            waiting += [(step, pair) for pair in range(len(samples))]
            while len(waiting) >= batch or (waiting and step == steps[-1]):
                chosen, pairs = np.array(waiting[:batch]).T
                del waiting[:batch]
                self._evaluate(terms, opened, chosen, samples[pairs], classes[pairs])
            while opened and not (waiting and waiting[0][0] == next(iter(opened))):
                self._close(opened.pop(next(iter(opened)))[2])

    def _evaluate(
        self,
        terms: Terms,
        opened: dict[int, tuple[Floats32, Floats32, Floats64]],
        steps: NDArray[np.int64],
        samples: NDArray[np.int64],
        classes: NDArray[np.int64],
    ) -> None:
        """Run one engine batch (its last row repeated where it is short) and put down its rows' terms."""
        method = self.method
        numbers = list(zip(steps.tolist(), samples.tolist(), strict=True))
        x = np.stack([opened[step][1][sample] for step, sample in numbers])
        levels = terms.levels[steps].astype(np.float32)
        labels = method.candidates[classes].astype(np.int64)
        answer = method.evaluated(x, levels, labels)
        a, b, d = (part[steps][:, None] for part in (terms.a, terms.b, terms.d))
        residual = a * (answer.astype(np.float64) - x)
        if d.any():
            residual += d * (x.astype(np.float64) - self.reference[samples])
        if b.any():
            residual += b * np.stack([opened[k][0][i % len(opened[k][0])] for k, i in numbers])
        losses = terms.weights[steps] * np.mean(residual * residual, axis=1)
        for row, (step, sample) in enumerate(numbers):
            opened[step][2][sample, classes[row]] = losses[row]
            if not np.isfinite(losses[row]):
                opened[step][2][sample, classes[row]] = np.nan
                method.note(
                    f"the loss at step {step} (s = {terms.levels[step]:.4g}) of class {labels[row]} is not finite for image "
                    f"{self.rows.images[sample]}, sample {self.rows.samples[sample]}: such votes are abstentions"
                )

    def _close(self, terms: Floats64) -> None:
        """Add a step: its terms, and their variance among the classes still in question."""
        self.total += terms
        count = self.alive.sum(axis=1)
        mean = np.where(self.alive, terms, 0.0).sum(axis=1) / count
        square = np.where(self.alive, (terms - mean[:, None]) ** 2, 0.0).sum(axis=1)
        self.spread += square / np.maximum(count - 1, 1)

    def drop(self, dropped: NDArray[np.bool_]) -> None:
        """Take classes out; their loss is infinite from now on. A void sample keeps all, as it is void whatever follows."""
        dropped &= ~np.isnan(self.total).any(axis=1, keepdims=True)
        self.alive &= ~dropped
        self.total[dropped] = np.inf


def _lead(total: Floats64) -> Floats64:
    """How far each class is behind the best of its sample."""
    return np.asarray(total - np.min(total, axis=1, keepdims=True))


def _published(work: _Losses, sieve: Terms, behind: float, kept: int | None) -> Floats64:
    """The published sift-and-refine: the sieve's levels in ascending order drop classes that are `behind` the best, until ten are
    left; then the `kept` best ones, all where that is None, are compared anew by all other levels."""
    for step in range(len(sieve.levels)):
        many = work.alive.sum(axis=1) > PUBLISHED_KEPT
        if not many.any():
            break
        work.add(sieve, np.array([step]), many)  # a sample that is done must not depend on the others
        with np.errstate(invalid="ignore"):
            work.drop((_lead(work.total) > behind) & many[:, None] & work.alive)
    for row in np.flatnonzero(work.alive.sum(axis=1) > (kept or work.alive.shape[1])):
        late = np.zeros_like(work.alive)
        late[row, np.argsort(work.total[row], kind="stable")[kept:]] = True
        work.drop(late)
    work.total[work.alive & ~np.isnan(work.total)] = 0.0
    work.add(work.method.terms, np.arange(len(work.method.terms.levels)))
    return work.total


def _stages(steps: int) -> Iterator[NDArray[np.int64]]:
    """The steps in seven groups, each spread over the whole range; the first six end at an eighth … three quarters of them."""
    order = np.argsort([int(f"{number:032b}"[::-1], 2) for number in range(steps)], kind="stable")
    shares = (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
    ends = sorted({max(2, math.ceil(steps * share)) for share in shares} | {steps})
    for start, stop in zip([0, *ends], ends, strict=False):
        yield np.sort(order[start:stop])


def _spread(work: _Losses, margin: float) -> Floats64:
    """Drop classes that the steps left are unlikely to bring back, after each group of `_stages`.

    What is left moves the difference of two classes by about √(2·V·(S − m)/m) after m of S steps, V being the variance of the
    terms among classes summed over those m; a class further behind than `margin` times that is dropped. Nothing more is spent
    on samples that have one class left, or are void.
    """
    done, steps = 0, len(work.method.terms.levels)
    for stage in _stages(steps):
        open_rows = (work.alive.sum(axis=1) > 1) & ~np.isnan(work.total).any(axis=1)
        if not open_rows.any():
            break
        work.add(work.method.terms, stage, open_rows)
        done += len(stage)
        if done < steps:
            reach = margin * np.sqrt(2 * work.spread * (steps - done) / done)
            with np.errstate(invalid="ignore"):
                work.drop((_lead(work.total) > reach[:, None]) & work.alive)
    return work.total
