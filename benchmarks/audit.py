"""Audit a run of rs or dds without this package: noise, votes and radii made again from the README's definitions alone.

    python benchmarks/audit.py run.sqlite images.npz engine.onnx [classifier.onnx] [--blocks 20]

Needs NumPy and ONNX Runtime. `images` in the .npz is uint8 [N, H, W, C], row i being row i of the data set after resize and
crop; a parquet file's rows become that by np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row
in pyarrow.parquet.read_table(path)["img"].to_pylist()]). Votes must be equal where the run's backend was ONNX Runtime; other
backends round differently, and a block may then differ in 5 % of its votes. Exit status 1 if anything does not agree.
"""

import argparse
import hashlib
import json
import math
import random
import sqlite3
from decimal import Decimal, localcontext
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import onnxruntime as ort

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
WHOLE = 2**64


def grid_weights(sigma: float) -> list[int]:
    """Weights of k = −reach … reach: 2^64·P(k) by largest remainders, of every k for which that is at least 1."""
    with localcontext(prec=70):
        quota: list[Decimal] = []
        below = Decimal(0)
        while True:
            x = (2 * len(quota) + 1) / (510 * Decimal(sigma))  # Φ(x) − ½ = φ(x)·(x + x³/3 + x⁵/15 + …)
            term = total = x
            n = 1
            while term > total.scaleb(-68):
                n += 2
                term *= x * x / n
                total += term
            area = total * (-x * x / 2).exp() / (2 * PI).sqrt()
            quota.append(WHOLE * (area - below if quota else 2 * area))
            below = area
            if quota[-1] < 1:
                break
        reach = len(quota) - 2
        ks = range(-reach, reach + 1)
        weights = {k: int(quota[abs(k)]) for k in ks}
        by_remainder = sorted(ks, key=lambda k: (int(quota[abs(k)]) - quota[abs(k)], k < 0))
    for k in by_remainder[: WHOLE - sum(weights.values())]:
        weights[k] += 1
    return list(weights.values())


def alias_table(weights: list[int]) -> tuple[int, Any, Any]:
    """Column bits, thresholds and aliases of 2^bits columns, made as the README says."""
    bits = (len(weights) - 1).bit_length()
    full = WHOLE >> bits
    left = weights + [0] * (2**bits - len(weights))
    alias = list(range(2**bits))
    small = [c for c in reversed(alias) if left[c] < full]
    large = [c for c in reversed(alias) if left[c] > full]
    while small:
        column = small.pop()
        alias[column] = donor = large[-1]
        left[donor] -= full - left[column]
        if left[donor] <= full:
            large.pop()
        if left[donor] < full:
            small.append(donor)
    return bits, np.array(left, np.uint64), np.array(alias, np.int64)


def lower_bound(hits: int, trials: int, alpha: float) -> float:
    """Clopper–Pearson: the p at which `hits` or more of `trials` have probability alpha, by bisection."""
    i = np.arange(hits, trials + 1)
    ways = np.array([math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in i.tolist()])
    low, high = 0.0, 1.0
    for _ in range(60 if hits else 0):
        p = (low + high) / 2
        tail = np.exp(ways + i * math.log(p) + (trials - i) * math.log1p(-p)).sum()
        low, high = (p, high) if tail < alpha else (low, p)
    return low


class Audit:
    """One run, the images it was of, and its engines."""

    def __init__(self, run: Path, images: Path, engines: list[Path]) -> None:
        self.rows = sqlite3.connect(f"{run.absolute().as_uri()}?mode=ro", uri=True)
        self.meta = {name: json.loads(text) for name, text in self.rows.execute("SELECT name, value FROM meta")}
        self.images, self.classifier = np.load(images)["images"], self.meta["classifier"]
        self.problems: list[str] = []
        roles = {"rs": ["classifier"], "dds": ["denoiser", "classifier"]}[self.classifier["method"]]
        for role, path in zip(roles, engines, strict=True):
            self.check(
                hashlib.sha256(path.read_bytes()).hexdigest() == self.classifier[role]["sha256"], f"{path} differs"
            )
        self.exact = all(self.classifier[role]["backend"] == "onnxruntime" for role in roles)
        self.batch = self.classifier[roles[0]]["batch"]
        self.networks = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in engines]
        self.weights = grid_weights(self.classifier["sigma"])
        self.bits, self.thresholds, self.alias = alias_table(self.weights)

    def check(self, agrees: bool, problem: str) -> None:
        if not agrees:
            self.problems.append(problem)

    def noisy(self, image: int, phase: int, sample: int) -> Any:
        """float32 [C, H, W]."""
        key = int(self.meta["key"], 16)
        pixels = self.images[image].transpose(2, 0, 1)
        counter = np.array([0, sample, image, phase], np.uint64)
        stream = np.random.Philox(counter=counter, key=np.array([key % WHOLE, key // WHOLE], np.uint64))
        words = stream.random_raw(pixels.size).reshape(pixels.shape)
        column = words >> np.uint64(64 - self.bits)
        own = (words & np.uint64(2 ** (64 - self.bits) - 1)) < self.thresholds[column]
        k = np.where(own, column.astype(np.int64), self.alias[column]) - len(self.weights) // 2
        return (pixels + k).astype(np.float32) / np.float32(255)

    def block(self, image: int, phase: int, start: int, stop: int, counts: str) -> None:
        """Draw a block again."""
        votes = [0] * self.meta["classes"]
        for first in range(start, stop, self.batch):
            rows = [self.noisy(image, phase, min(first + row, stop - 1)) for row in range(self.batch)]
            x = np.stack(rows)
            for network in self.networks:
                (x,) = network.run(None, {network.get_inputs()[0].name: x})
            for label in x.argmax(axis=1)[: stop - first].tolist():
                votes[label] += 1
        moved = sum(abs(a - b) for a, b in zip(votes, json.loads(counts), strict=True)) / 2
        agrees = moved == 0 if self.exact else moved <= 0.05 * (stop - start)
        self.check(agrees, f"image {image}, phase {phase}, from sample {start}: votes {votes}, recorded {counts}")

    def result(self, image: int, predict: int, radius: float, trials: int) -> None:
        """Bound and radius of an image, from its recorded votes."""
        votes = np.zeros((2, self.meta["classes"]), np.int64)
        for phase, counts in self.rows.execute("SELECT phase, counts FROM blocks WHERE image = ?", (image,)):
            votes[phase] += np.array(json.loads(counts))
        best, config = int(votes[0].argmax()), self.meta["config"]
        self.check(
            votes.sum(axis=1).tolist() == [config["n0"], config["n"]] and trials == config["n"], f"image {image}: n"
        )
        noise = self.images[image].size * len(self.weights) / 2**65
        p = lower_bound(int(votes[1, best]), int(votes[1].sum()), config["alpha"]) - noise
        own = self.classifier["sigma"] * NormalDist().inv_cdf(p) if p > 0.5 else 0.0
        agrees = predict == (best if own > 0 else -1) and radius <= own + 1e-9
        self.check(agrees, f"image {image}: class {predict}, radius {radius}, here {best}, {own}")

    def run(self, blocks: int | None) -> int:
        """Everything; how many problems there were."""
        for image, digest in self.rows.execute("SELECT image, sha256 FROM images"):
            pixels = self.images[image]
            found = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            self.check(found == digest, f"image {image}: other pixels")
        held = self.rows.execute("SELECT image, phase, start, stop, counts FROM blocks").fetchall()
        chosen = held if blocks is None else random.SystemRandom().sample(held, min(blocks, len(held)))
        for row in chosen:
            self.block(*row)
        certified = self.meta["config"]["command"] == "certify"
        results = (
            self.rows.execute("SELECT image, predict, radius, trials FROM results").fetchall() if certified else []
        )
        for row in results:
            self.result(*row)
        print("\n".join([*self.problems, f"{len(chosen)} of {len(held)} blocks, {len(results)} results checked"]))
        print("votes compared exactly" if self.exact else "votes compared roughly: another backend than ONNX Runtime")
        return len(self.problems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="audit a run of rs or dds")
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, help=".npz with uint8 `images` [N, H, W, C]")
    parser.add_argument("engines", type=Path, nargs="+", help="as given to certify: denoiser and classifier (rs: one)")
    parser.add_argument("--blocks", type=int, help="how many random blocks to draw again (default: all)")
    given = parser.parse_args()
    raise SystemExit(min(1, Audit(given.run, given.images, given.engines).run(given.blocks)))
