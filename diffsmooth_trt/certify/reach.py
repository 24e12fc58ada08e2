"""Whether a run can say anything at all: what the best votes that an image may have would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import InputError
from .rules import Conditions, SequentialRule, Votes, rule_of
from .stopping import MOST, Stopping


def check_reach(stopping: Stopping, conditions: Conditions) -> None:
    """InputError where every image would abstain, whatever its votes: n draws are too few for alpha. It names the least n.

    (locuslab/smoothing#8.) Preset radii are checked where their thresholds are made.
    """
    if not stopping.smoothing or stopping.radius is not None or _says(stopping, conditions):
        return
    family = f", divided by {conditions.images} images," if stopping.family_wise else ""
    does = "certifies" if stopping.certifies else "answers"
    least, most = stopping.n, stopping.n  # not enough, and maybe enough
    while not _says(replace(stopping, n=most), conditions):
        least, most = most, 2 * most
        if most > MOST:
            raise InputError(
                f"--alpha {stopping.alpha}{family} is too small for any n: every image would abstain; give a larger one"
            )
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if _says(replace(stopping, n=middle), conditions) else (middle, most)
    raise InputError(
        f"--n {stopping.n} {does} nothing at --alpha {stopping.alpha}{family} even if all votes agree: every image would abstain; "
        f"give --n {most} or more"
    )


def _says(stopping: Stopping, conditions: Conditions) -> bool:
    """Whether an image has an answer whose votes are all for one class."""
    rule = rule_of(stopping, conditions)
    answer = 0 if rule.void != 0 else 1
    votes = Votes(rule.plan, 2)
    for phase, count in rule.plan.phases:
        votes.totals[phase] = np.array([count, 0] if answer == 0 else [0, count], dtype=np.int64)
    if isinstance(rule, SequentialRule):
        votes.hits = rule.draws.tolist()
    return rule.outcome(votes).predict == answer
