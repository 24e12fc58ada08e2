"""Scores that tell in- from out-of-distribution inputs, larger = more in-distribution, in float64 from the engines' float32.

A joint model (ProoD, Meinke et al. 2022) mixes a classifier with a detector d: log p(y|x) = logaddexp(log p_in + log softmax_y,
log p_out − log K), p_in = 1/(1 + e^−d). DISTRO (Franco et al. 2023) puts a denoiser in front of the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax, logsumexp

from ..dtypes import Floats64
from ..errors import EngineError, InputError

KINDS = ("softmax", "energy", "reject", "distro-l2")


def joint_log_probabilities(logits: Floats64, d: Floats64) -> Floats64:
    """log p(y|x) `[N, K]` of the joint model from logits `[N, K]` and the detector's d `[N]`."""
    classes = logits.shape[1]
    inside = log_expit(d)[:, None] + log_softmax(logits, axis=1)
    return np.asarray(np.logaddexp(inside, log_expit(-d)[:, None] - np.log(classes)))


@dataclass(frozen=True)
class Score:
    """One of KINDS.

    softmax: the highest probability of any column, a reject class included. energy: T·logsumexp(logits/T), T = `temperature`
    (Liu et al. 2020; the published DISTRO code has its sign inverted). reject: the last logit is that of "out of
    distribution" (ATOM, Chen et al. 2021); the score is −log of its probability. distro-l2: DISTRO's, made from the softmax
    score, see certified.py.
    """

    kind: str = "softmax"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"--score {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if not 0 < self.temperature < np.inf:
            raise InputError(f"--temperature must be above 0, got {self.temperature}: 1 is usual")

    def of(self, logits: NDArray[np.float32], d: NDArray[np.float32] | None = None) -> Floats64:
        """Scores `[N]` of logits `[N, K]` and, for a joint model, d `[N]`. Raises EngineError for NaN."""
        values = logits.astype(np.float64)
        if d is not None:
            if self.kind == "energy":
                raise InputError("--score energy is of a classifier's own logits, a joint model has none: use softmax")
            values = joint_log_probabilities(values, d.astype(np.float64))
        if self.kind == "energy":
            scores = self.temperature * logsumexp(values / self.temperature, axis=1)
        elif self.kind == "reject":
            scores = -log_softmax(values, axis=1)[:, -1]
        else:
            scores = np.exp(log_softmax(values, axis=1).max(axis=1))
        if np.isnan(scores).any():
            raise EngineError(
                f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: run in a wider precision"
            )
        return np.asarray(scores)

    def probabilities(self, logits: NDArray[np.float32], d: NDArray[np.float32] | None = None) -> Floats64:
        """The probabilities `[N, K]` of a classifier's logits `[N, K]` or, with d `[N]`, of a joint model."""
        values = logits.astype(np.float64)
        log_p = log_softmax(values, axis=1) if d is None else joint_log_probabilities(values, d.astype(np.float64))
        return np.asarray(np.exp(log_p))

    def confidence(self, logits: NDArray[np.float32], d: NDArray[np.float32] | None = None) -> Floats64:
        """A number in [0, 1] that grows with the score, `[N]`: what is smoothed, see `Score.stretch`.

        Of softmax with K classes it is (K·max p − 1)/(K − 1); of reject 1 − p_reject. Raises InputError for energy.
        """
        if self.kind == "energy":
            raise InputError(
                "--score energy has no bounds, --kind certified needs one in [0, 1]: use softmax or reject"
            )
        score = self.of(logits, d)
        if self.kind == "reject":
            return np.asarray(np.clip(-np.expm1(-score), 0.0, 1.0))
        classes = logits.shape[1]
        return np.asarray(np.clip((classes * score - 1) / (classes - 1), 0.0, 1.0))

    def stretch(self, confidence: Floats64, classes: int) -> Floats64:
        """Smoothed probabilities from smoothed confidences: 1/K + (1 − 1/K)·u for softmax, u itself for reject.

        The map is affine, so it may be taken after the expectation; bounds on u that the smoothing theorem gives are never
        weaker than on the probability, because Φ(Φ⁻¹(·) + c) is concave for c ≥ 0 and 1 at 1.
        """
        return confidence if self.kind == "reject" else 1 / classes + (1 - 1 / classes) * confidence


def upper_from_logits(score: Score, low: Floats64, high: Floats64) -> Floats64:
    """The highest score `[N]` that logits within [low, high] `[N, K]` can give, rounded up."""
    if score.kind == "energy":
        scores = score.temperature * logsumexp(high / score.temperature, axis=1)
    elif score.kind == "reject":
        others = logsumexp(high[:, :-1], axis=1)
        scores = np.logaddexp(0.0, others - low[:, -1])
    else:
        classes = high.shape[1]
        rest = [logsumexp(np.delete(low, y, axis=1), axis=1) - high[:, y] for y in range(classes)]
        scores = np.exp(-np.logaddexp(0.0, np.stack(rest))).max(axis=0)
    raised = scores + 64 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(scores))
    return np.asarray(raised if score.kind in ("energy", "reject") else np.minimum(raised, 1.0))


def upper_from_detector(d_high: Floats64, classes: int) -> Floats64:
    """The highest softmax score `[N]` of a joint model with d ≤ d_high `[N]`, whatever its classifier says, rounded up.

    p̄_in + (1 − p̄_in)/K (Meinke et al. 2022): p_in·softmax_y + (1 − p_in)/K with softmax_y ≤ 1 grows with p_in.
    """
    inside = np.exp(log_expit(d_high))
    return np.asarray(np.minimum((inside + (1 - inside) / classes) * (1 + 64 * np.finfo(np.float64).eps), 1.0))
