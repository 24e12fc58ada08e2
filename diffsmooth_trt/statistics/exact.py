"""Binomial tails and the normal distribution with a proved error, in decimal arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from functools import lru_cache

import numpy as np

from ..noise.weights import pi_fixed_point

MAX_TRIALS = 10**12  # the error bounds below are shown up to here
NORMAL_REACH = 40.0  # Φ(−40) is below the smallest positive float
HALF = Decimal("0.5")

_DIGITS = 60
_STIRLING_FROM = 256
_STIRLING = (  # B_2j / (2j(2j−1)), j = 1 …; the first one left out is below 157
    (1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156), (-3617, 122400),
    (43867, 244188), (-174611, 125400), (77683, 5796),
)  # fmt: skip


def context(digits: int = _DIGITS, rounding: str = ROUND_HALF_EVEN) -> Context:
    """Return a decimal context of our own, so that the caller's precision and traps do not matter."""
    return Context(digits, rounding, MIN_EMIN, MAX_EMAX, traps=[InvalidOperation, DivisionByZero, Overflow])


def down(value: Decimal) -> float:
    """Return the largest float ≤ value."""
    nearest = float(value)
    return math.nextafter(nearest, -math.inf) if Decimal(nearest) > value else nearest


def up(value: Decimal) -> float:
    """Return the smallest float ≥ value."""
    nearest = float(value)
    return math.nextafter(nearest, math.inf) if Decimal(nearest) < value else nearest


def one_minus(p: float) -> Decimal:
    """Return 1 − p to 60 digits."""
    return context().subtract(Decimal(1), Decimal(p))


def distance_to_edge(p: float) -> float:
    """Return min(p, 1 − p)."""
    return min(p, 1 - p)


def furthest(
    verified: Callable[[float], bool],
    guess: float,
    safe: float,
    unsafe: float,
    scale: Callable[[float], float],
) -> float:
    """Return a verified float close to the last one on the way from `safe` (which holds) to `unsafe` (not).

    Only the closeness, 2^-40 of `scale` or one float, rests on `verified` being monotone or the guess good.
    """
    if not min(safe, unsafe) < guess < max(safe, unsafe):
        guess = (safe + unsafe) / 2

    def moved(end: float, share: float) -> float:
        step = max(share * scale(guess), math.ulp(guess))
        return min(guess + step, end) if end > guess else max(guess - step, end)

    inner = outer = guess
    share = 2.0**-50
    while (inner := moved(safe, share)) != safe and not verified(inner):
        outer, share = inner, 8 * share
    if outer == guess:
        share = 2.0**-50
        while (outer := moved(unsafe, share)) != unsafe and verified(outer):
            inner, share = outer, 8 * share
    while abs(outer - inner) > 2.0**-40 * scale(inner):
        middle = inner + (outer - inner) / 2
        if middle in (inner, outer):
            break
        if verified(middle):
            inner = middle
        else:
            outer = middle
    return inner


def tail_at_most(trials: int, hits: int, p: Decimal, q: Decimal, level: Decimal) -> bool:
    """Return whether P(Bin(trials, p) ≥ hits) ≤ level is certain; False also where it is only likely.

    q is 1 − p to 60 digits, 1 ≤ hits ≤ trials. The tail is pmf(hits)·S, S = 1 + r_0 + r_0·r_1 + …, r_j =
    (trials − hits − j)/(hits + 1 + j) · p/q. The logarithm of pmf, a sum of a few terms below 10^14 to 60
    digits each (Stirling's remainder: 10^-50), is right within 10^-44, so pmf to a relative 10^-43.
    """
    if not 0 < p < 1:
        return p <= 0
    with localcontext(context()):
        if level < HALF and hits <= trials * p:
            return False  # hits is at most the mean rounded down, which no median undercuts: tail ≥ ½
        log_pmf = _log_factorial(trials) - _log_factorial(hits) - _log_factorial(trials - hits)
        log_pmf += hits * p.ln() + (trials - hits) * q.ln()
        room = level / log_pmf.exp() * (1 - Decimal("1e-40"))
        odds = float(p / q)
        return _series_at_most(trials, hits, odds, down(room))


def _series_at_most(trials: int, hits: int, odds: float, room: float) -> bool:
    """Return whether S of `tail_at_most` is certainly at most `room`; odds: p/q, correctly rounded.

    With u = 2^-53, r_j is right within 3u, a product of j of them within 4j·u, and summing j positive terms
    adds at most j·u, all relative: 8j + 64 leaves ample room, for what underflows too. The r_j fall, so the
    rest is at most the geometric series term·r/(1 − r) once r < 1; doubled, that covers r's own rounding.
    """
    total = term = 1.0
    j, size = 0, 256
    while j < trials - hits:
        steps = np.arange(j, min(j + size, trials - hits), dtype=np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            terms = term * np.cumprod((trials - hits - steps) / (hits + 1 + steps) * odds)
            total += float(terms.sum())
        if not total <= min(room, 1e300):
            return False
        j += len(steps)
        term = max(float(terms[-1]), 1e-280)  # what underflowed was less
        ratio = (trials - hits - j) / (hits + 1 + j) * odds
        if ratio < 1 - 1e-12:
            rest = 2 * term * ratio / (1 - ratio)
            if rest <= 1e-17 * total:
                total += rest
                break
        size = min(2 * size, 1 << 16)
    return total * (1 + (8 * j + 64) * 2.0**-53) <= room


@lru_cache(maxsize=4096)
def _log_factorial(m: int) -> Decimal:
    """Return ln m!, to 60 digits but for Stirling's remainder, which its first omitted term bounds."""
    with localcontext(context()):
        if m < _STIRLING_FROM:
            return Decimal(math.factorial(m)).ln()
        total = (m + HALF) * Decimal(m).ln() - m + (2 * _pi()).ln() / 2
        for j, (numerator, denominator) in enumerate(_STIRLING):
            total += Decimal(numerator) / (denominator * Decimal(m) ** (2 * j + 1))
        return total


def normal_directed(x: float) -> tuple[float, float]:
    """Return the largest float ≤ Φ(x) and the smallest ≥ Φ(x), or at worst their neighbours."""
    if abs(x) > NORMAL_REACH:
        if math.isinf(x):
            return (1.0, 1.0) if x > 0 else (0.0, 0.0)
        return (math.nextafter(1.0, 0.0), 1.0) if x > 0 else (0.0, math.ulp(0.0))
    below, above = normal(x)
    return max(0.0, down(below)), min(1.0, up(above))


@lru_cache(maxsize=1024)
def normal(x: float) -> tuple[Decimal, Decimal]:
    """Return decimals below and above Φ(x), |x| ≤ 40, that agree to 40 digits of Φ(x) and of Φ(−x).

    Φ(|x|) − ½ = φ(x)·Σ_j |x|^(2j+1)/(1·3·…·(2j+1)): positive terms, so their < 10^4 roundings are all that
    counts, and the rest is below the last term once each is less than half the one before. The digits that
    ½ − that cancels, log10(e)·x²/2 and a few, are worked with beforehand.
    """
    if x == 0:
        return HALF, HALF
    digits = 60 + int(0.22 * x * x)
    with localcontext(context(digits)):
        square = Decimal(x) * Decimal(x)
        term = total = abs(Decimal(x))
        j = 0
        while 2 * j + 1 < 2 * square or term > total.scaleb(-digits):
            j += 1
            term = term * square / (2 * j + 1)
            total += term
        area = total * (-square / 2).exp() / (2 * _pi()).sqrt()
        slack = area.scaleb(10 - digits)
    with localcontext(context(digits, ROUND_FLOOR)):
        small = HALF + (area - slack) if x > 0 else HALF - (area + slack).next_plus()
    with localcontext(context(digits, ROUND_CEILING)):
        large = HALF + (area + slack).next_plus() if x > 0 else HALF - (area - slack).next_minus()
    return small, large


@lru_cache(maxsize=1)
def _pi() -> Decimal:
    """Return π to 450 digits."""
    bits = 1600
    return context(460).divide(Decimal(pi_fixed_point(bits)), Decimal(1 << bits))
