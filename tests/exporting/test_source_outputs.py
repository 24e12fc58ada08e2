"""What the torch source answers does not depend on how its rows are shared out, and torch's threads are as they were."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffsmooth_trt.exporting.checks.inputs import ImageCheck  # noqa: E402
from diffsmooth_trt.exporting.checks.verification import source_outputs  # noqa: E402


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("rows", "at_once"), [(1, 1), (2, 1), (3, 32), (7, 2), (33, 32), (64, 5)])
def test_rows_are_shared_out_and_come_back_in_order(threads, rows, at_once):
    seen = []

    class Source(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            assert not torch.is_grad_enabled()
            return x.mean((2, 3)) * 2

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = np.random.default_rng(0).random((rows, 3, 4, 4), np.float32)
        found = source_outputs(ImageCheck(Source(), (3, 4, 4), 0.25), (x,), at_once)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.allclose(found, 2 * x.mean((2, 3)), atol=1e-6)
    assert sum(seen) == rows
    assert max(seen) * min(threads, rows, at_once) <= max(at_once, 1) or max(seen) == 1


def test_an_error_of_the_source_is_raised_and_threads_are_as_before():
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise ValueError("broken")

    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="broken"):
        source_outputs(ImageCheck(Broken(), (3, 4, 4), 0.25), (np.zeros((4, 3, 4, 4), np.float32),), 4)
    assert torch.get_num_threads() == before
