"""How often a certificate is wrong, from the command line, where the truth is known in closed form.

    python benchmarks/bench_end_to_end.py    # prints the table, writes benchmarks/results/end_to_end.json

A half-space in one coordinate of a 2×2 image: the smoothed probability of class 0 is a sum of the noise's weights, exactly. With
`rs` it is that of one noise; with `diffsmooth`, a denoiser that changes nothing and one fresh local noise, that of the sum of two.
Each of N equal images is one trial: its certificate is wrong if its radius is above σ·Φ⁻¹(p). How likely that is follows from n,
n0, α and p by two binomial sums; the measured share has to lie in the exact 99 % interval around it. A run with `--radius`, whose
radius is just above the true one, is wrong where it says certified: there theory gives a bound, α.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from diffsmooth_trt.noise import grid_law
from diffsmooth_trt.statistics.bounds import binomial_lower

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"
SIGMA, LOCAL_SIGMA, N0, N, ALPHA = 0.25, 0.12, 100, 1000, 0.05
PIXEL, EDGE = 128, 100.5  # the class is 0 where the first coordinate is above EDGE/255
SHAPE = (3, 2, 2)


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, Any], out: list[int]) -> Path:
    """An ONNX file of images in, `out` out."""
    values = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])
        for name, shape in (("x", SHAPE), ("y", out))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def probabilities() -> dict[str, float]:
    """P(class 0) of one draw, by method: exact sums of the laws' weights."""
    law, local = grid_law(SIGMA), grid_law(LOCAL_SIGMA)
    least = int(np.ceil(EDGE - PIXEL))
    first, second = (np.array(each.weights, dtype=np.float64) / 2.0**64 for each in (law, local))
    both = np.convolve(first, second)
    return {
        "rs": float(first[least + law.reach :].sum()),
        "diffsmooth": float(both[least + law.reach + local.reach :].sum()),
    }


def expected_share(p: float) -> float:
    """P(a certificate's bound is above p): the selection must choose class 0, and the hits be too many."""
    hits = np.arange(N + 1)
    too_high = np.array([binomial_lower(int(h), N, ALPHA) > p for h in hits])
    return float(stats.binom.pmf(hits, N, p)[too_high].sum()) * float(stats.binom.sf(N0 / 2 - 0.5, N0, p))


def certified(folder: Path, name: str, *options: str) -> np.ndarray[Any, Any]:
    """Radii of a run of the command line, one an image; 0 where it abstains."""
    out, tsv = folder / f"{name}.sqlite", folder / f"{name}.tsv"
    common = ["--data", str(folder / "same.npz"), "--alpha", str(ALPHA), "--n0", str(N0), "--backend", "onnxruntime"]
    command = [str(Path(sys.executable).with_name("diffsmooth-trt")), "certify", *common, *options, "--batch", "1000"]
    subprocess.run([*command, "--out", str(out), "--tsv", str(tsv)], check=True, stdout=subprocess.DEVNULL)
    rows = [line.split("\t") for line in tsv.read_text(encoding="utf-8").splitlines()[1:]]
    return np.array([float(row[3]) if row[2] != "-1" else 0.0 for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    truth, rows = probabilities(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = np.zeros((2, 12))
        weights[:, 0] = 1, -1
        nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
        half = save(folder / "half.onnx", nodes, {"w": weights, "b": [-EDGE / 255, EDGE / 255]}, [2])
        same = save(folder / "same.onnx", [helper.make_node("Identity", ["x"], ["y"])], {}, list(SHAPE))
        images = np.full((given.images, 2, 2, 3), PIXEL, np.uint8)
        np.savez(folder / "same.npz", images=images, labels=np.zeros(given.images, np.int64))
        rs = ("--method", "rs", "--engine", str(half), "--sigma", str(SIGMA))
        fresh: tuple[str, ...] = (
            "--method",
            "diffsmooth",
            "--engine",
            str(same),
            "--classifier",
            str(half),
            "--sigma",
            str(SIGMA),
        )
        fresh += ("--local-noise", "fresh", "--m", "1", "--local-sigma", str(LOCAL_SIGMA))
        above = SIGMA * float(stats.norm.ppf(truth["rs"])) + 1e-4
        runs = {
            "rs": (rs, ("--n", str(N)), truth["rs"]),
            "diffsmooth, fresh": (fresh, ("--n", str(N)), truth["diffsmooth"]),
            "rs, --radius": (rs, ("--n", "10000", "--radius", str(above)), truth["rs"]),
        }
        for run, (method, options, p) in runs.items():
            start = time.perf_counter()
            radii = certified(folder, run.replace(", ", "-"), *method, *options)
            wrong = int((radii > SIGMA * stats.norm.ppf(p)).sum())
            low, high = stats.binomtest(wrong, len(radii)).proportion_ci(0.99)
            theory = expected_share(p) if "--radius" not in options else None
            rows[run] = {
                "p": p,
                "images": len(radii),
                "wrong": wrong,
                "share": wrong / len(radii),
                "interval_99": [low, high],
                "theory": theory,
                "seconds": round(time.perf_counter() - start, 1),
            }
            agrees = low <= theory <= high if theory is not None else low <= ALPHA
            said = f"theory {theory:.4f}" if theory is not None else f"bound {ALPHA}"
            print(f"{run:20} {wrong:5} of {len(radii)} wrong: {wrong / len(radii):.4f} [{low:.4f}, {high:.4f}], {said}")
            if not agrees:
                raise SystemExit(f"{run}: the measured share does not agree")
    about = {"alpha": ALPHA, "n0": N0, "n": N, "sigma": SIGMA, "numpy": np.__version__}
    about["diffsmooth-trt"] = version("diffsmooth-trt")
    given.out.write_text(json.dumps({**about, "runs": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
