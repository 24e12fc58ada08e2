"""Votes whose last bits depend on a row's place in the batch: what is right of them, and what an audit has to find.

`Engine.place_dependent` says so of some GPU kernels; f_j is f at place j.
- A row that is evaluated again at its own place must have its label: a difference still voids the run. So mates have no
  influence: an image's votes are independent, vote i with probability p_i = P(f_place(i)(x + δ) = c).
- For a fixed n that is enough. From its mean plus 1 on, a sum of such votes has no heavier upper tail than Bin(n, mean of
  p_i) (Hoeffding 1956, theorem 5), so the bound of Clopper and Pearson holds for that mean: the probability of c under a
  classifier of the noisy image that takes its place at random, as often as the run did. Cohen's theorem holds for it.
- Bounds that look several times, predictions, and one classifier for all images need more: that at another place a row's label
  differs with probability q ≤ `SLACK`. Each p_i is then at most p + `SLACK`, and bounds are taken for p + `SLACK` beside the
  total variation. Chosen rows at random places tell q: the run is void unless the bound of Clopper and Pearson on q at
  confidence 1 − `RISK` is at most `SLACK`. That is the mean over the run's rows; that no image is worse is an assumption,
  which a fixed n does without. It takes 6,905 rows without a difference, or `MOVED` with five, which q = 10^-4 stays within
  with probability 0.99: of short runs more rows are chosen for that, and runs of fewer than `FEWEST` are refused.
"""

from __future__ import annotations

from scipy import special

from ..errors import InputError
from ..statistics.bounds import binomial_lower

SLACK, RISK = 0.001, 0.001
MOVED, STAYING = 17_000, 0.25  # rows to be placed anew where places matter, and the share of the chosen that is not
FEWEST = 16_000


def least_share(share: float, expected: int) -> float:
    """The share of rows to choose, `share` or more, in a run of `expected` rows or more; InputError for too few of them."""
    if expected < FEWEST:
        raise InputError(
            f"{expected} draws are too few to bound how often labels depend on a row's place in the batch, which last bits do "
            f"here: at least {FEWEST} are needed, raise --n or --max, or use --device cpu"
        )
    return min(1.0, max(share, MOVED / (1 - STAYING) / expected))


def rare(differ: int, moved: int) -> bool:
    """Whether rows at other places, `differ` of `moved` with other labels, show at confidence 1 − RISK that q ≤ SLACK."""
    return moved > 0 and binomial_lower(moved - differ, moved, RISK) >= 1 - SLACK


def most_moved(votes: int, slack: float, risk: float) -> int:
    """A number that votes which places in the batch move, each with probability `slack` at most, exceed with probability ≤ `risk`.

    The least such number, or one more: half a billionth of the risk is kept for the library's rounding.
    """
    low, high = 0, votes
    while low < high:
        middle = (low + high) // 2
        if special.bdtrc(middle, votes, slack) <= risk * (1 - 1e-9):
            high = middle
        else:
            low = middle + 1
    return min(votes, low + 1) if slack else 0
