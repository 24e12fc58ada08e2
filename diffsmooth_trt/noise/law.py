"""The grid Gaussian, a normal rounded to the grid 1/255·ℤ, as an alias table for 64 random bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ..errors import NO_NUMBER, InputError, shown
from ..ranges import is_finite
from .counters import NOISE_VERSION, check_integer
from .weights import TOTAL_WEIGHT, grid_weights

SIGMA_MIN, SIGMA_MAX = 0.01, 4.0


def check_noise_level(name: str, value: float) -> None:
    """Raise InputError, naming the option `--name`, unless `value` is a noise level that a law exists for."""
    if not (is_finite(value) and SIGMA_MIN <= value <= SIGMA_MAX):
        raise InputError(f"--{name} must lie in [{SIGMA_MIN}, {SIGMA_MAX}] (image units), got {value!r}")


@dataclass(frozen=True, eq=False)
class GridLaw:
    """One coordinate's noise k, P(k) = Φ((k+½)/(255σ)) − Φ((k−½)/(255σ)), and how to draw it.

    sigma: standard deviation in image units ([0,1] scale). support: int32 [K], the k with nonzero weight,
    −reach … reach. weights: K ints with sum 2^64; a draw is k with probability weight/2^64, exactly. Drawing:
    column c is the top `column_bits` bits of a 64-bit word; k is primary[c] where the word's other bits are
    below thresholds[c], else alias[c] (uint64, int16, int16; each [2^column_bits]). table: the same packed
    for csrc/grid_gaussian.h, uint64 [2^column_bits]. Arrays are read-only.
    """

    sigma: float
    support: NDArray[np.int32]
    weights: tuple[int, ...]
    column_bits: int
    thresholds: NDArray[np.uint64]
    primary: NDArray[np.int16]
    alias: NDArray[np.int16]
    table: NDArray[np.uint64]

    @property
    def reach(self) -> int:
        """The largest k."""
        return len(self.weights) // 2

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of σ and the packed table: equal digests mean equal noise from equal counters."""
        head = f"grid-gaussian/{NOISE_VERSION} {self.sigma.hex()} {self.reach} {self.column_bits}\n"
        return hashlib.sha256(head.encode("ascii") + self.table.astype("<u8").tobytes()).hexdigest()

    def tv_bound(self, dimension: SupportsIndex) -> float:
        """Return a bound, rounded up, on the total variation of `dimension` coordinates from the exact law.

        Guarantee: |P(A) − P_exact(A)| ≤ tv_bound(d) for every set A of d-coordinate noises, given ideal
        random bits. It is d·K·2^-65, cut tails included. Let q_k = 2^64·P(k) for every integer k; the support
        holds the K of them with q_k ≥ 1, and T = Σ q_k over all others. Of the supported, r = T + Σ frac(q_k)
        are rounded up, those with the largest fractions; total variation is their excess, 2^-64·Σ(1 −
        frac(q_k)). Their mean fraction is at least that of all, (r − T)/K, so Σ(1 − frac) ≤ r·(1 − (r − T)/K)
        ≤ (K + T)²/(4K), the maximum over r: less than K/2 where T ≤ K/4, which is checked as the weights are
        made. Coordinates are independent: d times that.

        Raises InputError unless `dimension` is an integer in [1, 2^48].
        """
        scaled = check_integer("dimension", dimension, 1, 2**48) * len(self.weights)
        rounded = float(scaled)
        bound = math.ldexp(rounded, -65)
        return bound if int(rounded) >= scaled else math.nextafter(bound, math.inf)


def grid_law(sigma: SupportsFloat) -> GridLaw:
    """Return the grid Gaussian of standard deviation `sigma` (image units, 0.01 to 4); built once a process.

    Raises InputError for any other σ, NaN included. The same σ gives the same table on every machine.
    """
    try:
        value = float(sigma)
    except NO_NUMBER:
        raise InputError(f"sigma is {shown(sigma)}, expected a number such as 0.25, in image units") from None
    if not SIGMA_MIN <= value <= SIGMA_MAX:  # NaN fails this too
        raise InputError(f"sigma is {value}, expected {SIGMA_MIN} to {SIGMA_MAX}: give it in image units, [0,1]")
    return _grid_law(value)


@lru_cache(maxsize=64)
def _grid_law(sigma: float) -> GridLaw:
    weights = grid_weights(sigma)
    count, reach = len(weights), len(weights) // 2
    bits = (count - 1).bit_length()
    thresholds, aliases = alias_columns(weights, bits)
    # A full column's threshold does not fit in the packed entry and need not: its alias is the column itself.
    packed = [(t % (TOTAL_WEIGHT >> bits)) << bits | a for t, a in zip(thresholds, aliases, strict=True)]
    primary = [column if column < count else alias for column, alias in enumerate(aliases)]
    return GridLaw(
        sigma=sigma,
        support=_frozen(range(-reach, reach + 1), np.int32),
        weights=weights,
        column_bits=bits,
        thresholds=_frozen(thresholds, np.uint64),
        primary=_frozen([index - reach for index in primary], np.int16),
        alias=_frozen([index - reach for index in aliases], np.int16),
        table=_frozen(packed, np.uint64),
    )


def _frozen(values: Sequence[int], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


def alias_columns(weights: Sequence[int], bits: int) -> tuple[list[int], list[int]]:
    """Return (thresholds, aliases) of an exact alias table with 2^bits columns (Walker 1977, Vose 1991).

    weights: ints ≥ 0 that sum to 2^64, at most 2^bits of them. Column c gives c in thresholds[c] of its
    2^(64−bits) equally likely cases and aliases[c] in the rest; full columns have themselves as alias, so no
    case is in doubt. Deterministic. Raises ArithmeticError where the table does not give back exactly the
    weights.
    """
    columns, capacity = 1 << bits, TOTAL_WEIGHT >> bits
    left = [*weights, *[0] * (columns - len(weights))]
    aliases = list(range(columns))
    small = [c for c in reversed(range(columns)) if left[c] < capacity]
    large = [c for c in reversed(range(columns)) if left[c] > capacity]
    while small:
        needy, donor = small.pop(), large[-1]
        aliases[needy] = donor
        left[donor] -= capacity - left[needy]
        if left[donor] <= capacity:
            large.pop()
        if left[donor] < capacity:
            small.append(donor)
    given = list(left)
    for column, alias in enumerate(aliases):
        given[alias] += capacity - left[column]
    if given[: len(weights)] != list(weights) or any(given[len(weights) :]):
        raise ArithmeticError("the alias table does not give back its weights")
    return left, aliases
