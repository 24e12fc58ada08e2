"""That n draws are too few for alpha is said before the run, with the least n that is enough."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.certify.places import SLACK
from diffsmooth_trt.certify.reach import check_reach
from diffsmooth_trt.certify.rules import Conditions
from diffsmooth_trt.certify.stopping import Stopping
from diffsmooth_trt.errors import InputError

PLAIN = Conditions(sigma=0.25)


@pytest.mark.parametrize(
    ("stopping", "conditions", "least"),
    [
        (Stopping(n=5), PLAIN, 10),  # 0.001^(1/9) < 1/2 < 0.001^(1/10)
        (Stopping(n=1, alpha=0.4), PLAIN, 2),
        (Stopping(n=10, family_wise=True), replace(PLAIN, images=10_000), 24),  # 2^-23 > 1e-7 > 2^-24
        (Stopping(command="predict", n=10), PLAIN, 11),  # locuslab/smoothing#8: 2·2^-10 > 0.001
        (Stopping(n=9, alpha=1e-4), replace(PLAIN, void=0), 14),
        (Stopping(n=30, tolerance=0.1, alpha=1e-9), PLAIN, 40),
    ],
)
def test_the_least_n_is_named_and_is_enough(stopping, conditions, least):
    with pytest.raises(InputError, match=rf"n {stopping.n} .* at alpha .* give n {least} or more") as error:
        check_reach(stopping, conditions)
    assert "\n" not in str(error.value)
    check_reach(replace(stopping, n=least), conditions)
    with pytest.raises(InputError):
        check_reach(replace(stopping, n=least - 1), conditions)


def test_usual_runs_are_not_held_up():
    for stopping in (Stopping(), Stopping(command="predict"), Stopping(tolerance=0.05), Stopping(n=10**12)):
        check_reach(stopping, replace(PLAIN, slack=SLACK, total_variation=1e-12))
    check_reach(Stopping(certificate="lipschitz"), replace(PLAIN, lipschitz_constant=1.0))


def test_a_run_is_refused_before_it_makes_a_file(linear_classifier, images_npz, tmp_path):
    engine = linear_classifier(np.stack([np.ones(48), -np.ones(48)]), np.zeros(2))
    given = {"engine": engine, "data": images_npz(count=1), "method": "rs", "sigma": 0.5, "backend": "onnxruntime"}
    with pytest.raises(InputError, match="every image would abstain") as error:
        dst.certify(**given, n0=5, n=8, out=tmp_path / "r.sqlite")
    assert not (tmp_path / "r.sqlite").exists()
    named = int(re.search(r"give n (\d+)", str(error.value))[1])
    with dst.certify(**given, n0=5, n=named) as store:
        assert len(list(store.results())) == 1
