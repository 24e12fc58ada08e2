"""The arrays that travel between rooms, by what their numbers are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]  # what networks take and return
Floats64 = NDArray[np.float64]  # what bounds and scores are computed in
Words = NDArray[np.uint64]  # words of the noise's counter
Labels = NDArray[np.int64]
Counts = NDArray[np.int64]  # votes by label
