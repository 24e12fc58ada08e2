"""Integer weights of the grid Gaussian: exact arithmetic from σ to 64-bit probabilities.

P(k) = Φ((k+½)/(255σ)) − Φ((k−½)/(255σ)) is evaluated in fixed point with integers. σ enters as the exact
binary fraction it is, the error is bounded below, and a weight is used only when that error cannot have
changed it: so every machine finds the same weights, bit for bit, and no library's erf is trusted.
"""

from __future__ import annotations

import math

TOTAL_WEIGHT = 2**64

# Fractional bits worked with, and how many of the last ones `_half_line` may get wrong (shown there).
_PRECISION = 320
_ERROR_BITS = 112


def grid_weights(sigma: float) -> tuple[int, ...]:
    """Return the weights of k = −reach … reach: ints ≥ 1 that sum to 2^64, by largest remainders.

    sigma: a finite float in [0.01, 4], in image units. The support is every k with P(k) ≥ 2^-64. Of the two
    equal remainders of k and −k, +k comes first.
    """
    for precision in (_PRECISION, 2 * _PRECISION, 4 * _PRECISION):
        weights = round_quotas(*quotas(sigma, precision), precision)
        if weights is not None:
            return weights
    raise ArithmeticError(f"sigma {sigma!r}: no working precision tried settles every weight")


def quotas(sigma: float, precision: int) -> tuple[list[int], int]:
    """Return 2^64·P(k) for k = 0, 1, … while it is at least 1, and the first below 1.

    All are fixed-point integers with `precision` fractional bits, each within 2^(64 + _ERROR_BITS + 1) units
    of the truth.
    """
    numerator, denominator = sigma.as_integer_ratio()
    scale = math.isqrt((1 << 3 * precision) // (2 * pi_fixed_point(precision)))  # 1/√(2π)
    kept: list[int] = []
    below = 0
    while True:
        area = _half_line((2 * len(kept) + 1) * denominator, 510 * numerator, precision)
        up_to = area * scale >> precision
        quota = (up_to - below if kept else 2 * up_to) << 64
        if quota >> precision == 0:
            return kept, quota
        kept.append(quota)
        below = up_to


def round_quotas(quota: list[int], outside: int, precision: int) -> tuple[int, ...] | None:
    """Return the weights by largest remainders; None where the quotas' error leaves one of them open.

    quota: those of k = 0, 1, …, reach; outside: that of reach + 1; as `quotas` returns them.
    """
    one = 1 << precision
    margin = 1 << (64 + _ERROR_BITS + 2)
    reach = len(quota) - 1
    fraction = [q % one for q in quota]
    if any(not margin < f < one - margin for f in (*fraction, outside)):
        return None
    weights = [quota[abs(k)] >> precision for k in range(-reach, reach + 1)]
    spare = TOTAL_WEIGHT - sum(weights)
    order = sorted(range(-reach, reach + 1), key=lambda k: (-fraction[abs(k)], k < 0))
    last, first = order[spare - 1], order[spare]
    if last != -first and fraction[abs(last)] - fraction[abs(first)] <= 2 * margin:
        return None
    for k in order[:spare]:
        weights[k + reach] += 1
    # What `GridLaw.tv_bound` rests on: the mass outside the support is at most K/4 weights.
    tail = (TOTAL_WEIGHT << precision) - (2 * sum(quota) - quota[0])
    if sum(weights) != TOTAL_WEIGHT or 4 * (tail + one) > len(weights) * one:
        raise ArithmeticError("the weights do not carry the bound on total variation")
    return tuple(weights)


def _half_line(numerator: int, denominator: int, precision: int) -> int:
    """Return ∫₀ˣ exp(−t²/2) dt for x = numerator/denominator, in fixed point.

    It is x·Σ (−u)ⁿ/(n!(2n+1)), u = x²/2. The error stays below 2^_ERROR_BITS units of the last place for u <
    64: rounding u moves uⁿ/n! by at most e^u units; each rounded step (two floors) is carried on as uʲ/j! ≤
    e^u: at most 2e^u more. Over fewer than 2^11 terms, each with one more floor, that is under 2^11·(3e^u +
    1) < 2^106 units; the series cut off adds less than its last error; and x < 2^4 multiplies all of it:
    2^110 and a bit.
    """
    u = ((numerator * numerator) << precision) // (2 * denominator * denominator)
    if u >> precision >= 64:
        raise ArithmeticError("the grid reaches further than the error bound of its series")
    term = total = 1 << precision
    n = 0
    while term:
        n += 1
        term = (term * u >> precision) // n
        total += -(term // (2 * n + 1)) if n & 1 else term // (2 * n + 1)
    return total * numerator // denominator


def pi_fixed_point(precision: int) -> int:
    """Return π with `precision` bits behind the point, within 4 units of the last place (Machin 1706)."""
    guard = 32

    def arctangent_of_inverse(x: int) -> int:
        power = total = (1 << (precision + guard)) // x
        n = 1
        while power:
            power //= x * x
            n += 2
            total += power // n if n % 4 == 1 else -(power // n)
        return total

    return (16 * arctangent_of_inverse(5) - 4 * arctangent_of_inverse(239)) >> guard
