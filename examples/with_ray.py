"""Ray's workers draw: a run by two of them is the run of one process, vote for vote.

    python examples/with_ray.py             # two workers on this machine, or python examples/with_ray.py ray://head:10001

Needs the extra `ray`. On a cluster the only change is the address; workers get the engine files by hash.
"""

from __future__ import annotations

import secrets
import sys
from typing import Any

import diffsmooth_trt as dst
from diffsmooth_trt import zoo

if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "local"
    asked: dict[str, Any] = {"engine": zoo.CLASSIFIER_DDS, "method": "rs", "sigma": 0.12, "data": zoo.IMAGES, "max": 2}
    asked |= {"n0": 20, "n": 200, "threads": 1, "backend": "onnxruntime"}
    asked["key"] = secrets.token_hex(32)  # one for both runs, so that votes can be compared
    with dst.certify(**asked, out=None) as alone:
        expected = [(result.image, result.predict, result.radius) for result in alone.results()]
    with dst.certify(**asked, ray=address, workers=2, out="ray.sqlite") as run:
        found = [(result.image, result.predict, result.radius) for result in run.results()]
    for image, answer, radius in found:
        print(f"image {image}: answer {answer}, radius {radius:.4f}")
    print("the workers' run is that of one process" if found == expected else "the runs differ")
    raise SystemExit(found != expected)
