"""Audit a run of rs or dds without this package: all that it says made again from docs/recomputing.md alone.

    python examples/audit.py run.sqlite images.npz engine.onnx [classifier.onnx] [--blocks 20]

Needs NumPy, ONNX Runtime and PyCryptodome, whose XChaCha20 draws the noise. `images` in the .npz is uint8 [N, H, W, C], row i
being row i of the data set after resize and crop; a parquet file's rows become that by np.stack([np.asarray(Image.open(io.BytesIO(
row["bytes"])).convert("RGB")) for row in pyarrow.parquet.read_table(path)["img"].to_pylist()]). Votes must be equal where the run's
backend was ONNX Runtime; other backends round differently, and a block may then differ in 5 % of its votes. Exit status 1 if
anything does not agree.

Of an image that was rounded (`--quantise`) `images` holds the rounded one; its radius is held to the bound at the radius plus the
recorded distance, which itself needs the image as given and is not checked. Runs of such images with `radius` are refused.

Checked are noise and votes, that each sample counts once, class and radius, and of a run that stopped early the thresholds
and the decisions. When it stopped needs no check: its bounds hold at all looks together, so it may stop at any of them, for
any reason. With `family_wise` the decisions are those of an image alone, at α/images; what
Holm's procedure adds to them is said by reports, not by the store.
"""

import argparse
import hashlib
import json
import math
import random
import sqlite3
from collections.abc import Iterator
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from Crypto.Cipher import ChaCha20

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
    """Column bits, thresholds and aliases of 2^bits columns, made as docs/recomputing.md says."""
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


def looks(n: int) -> list[int]:
    """The numbers of draws, up to n, after which a run that may stop early looks at its votes."""
    found, tenth = list(range(30, 100, 10)), 10
    while found[-1] < n:
        found += [tenth * k // 4 for k in (*range(40, 80, 4), *range(80, 200, 10), *range(200, 400, 20))]
        tenth *= 10
    return [draws for draws in found if draws <= n]


def share(draws: int) -> float:
    """The share of the error probability that may be spent by a look."""
    return math.sqrt(draws / (draws + 50_000))


class Binomial:
    """Probabilities of numbers of hits."""

    def __init__(self) -> None:
        self.log_factorial = np.zeros(2)

    def mass(self, draws: int, p: float) -> Any:
        """P(Bin(draws, p) = k), k = 0 … draws."""
        if draws >= len(self.log_factorial):
            self.log_factorial = np.array([math.lgamma(k + 1) for k in range(2 * draws)])
        p = min(p, 1 - 2**-53)
        k, log = np.arange(draws + 1), self.log_factorial
        ways = log[draws] - log[: draws + 1] - log[draws::-1]
        return np.exp(ways + k * math.log(p) + (draws - k) * math.log1p(-p))

    def crossings(self, p: float, draws: list[int], least: list[int]) -> Iterator[tuple[float, float]]:
        """For each look, P(there were `least` hits at it or before), and the same if one hit less sufficed there.

        The distribution of the hits is carried on from look to look, without those paths that were there. Parts below 1e-30 are
        left out. At a look at which all paths are there it ends.
        """
        state, first, crossed = np.ones(1), 0, 0.0  # state[i] = P(first + i hits, and never there)
        for i, (now, hits) in enumerate(zip(draws, least, strict=True)):
            weights = self.mass(now - (draws[i - 1] if i else 0), p)
            some = np.flatnonzero(weights > 1e-30)
            weights = weights[some[0] : some[-1] + 1]
            state, first = np.convolve(state, weights / weights.sum()), first + int(some[0])
            kept = max(hits - first, 0)
            crossed += state[kept:].sum()
            yield crossed, crossed + state[max(kept - 1, 0) : kept].sum()
            some = np.flatnonzero(state[:kept] > 1e-30)
            if not some.size:
                return
            state, first = state[some[0] : some[-1] + 1], first + int(some[0])


def normal(x: float) -> float:
    """Φ(x)."""
    return math.erfc(-x / math.sqrt(2)) / 2


class Audit:
    """One run, the images it was of, and its engines."""

    def __init__(self, run: Path, images: Path, engines: list[Path]) -> None:
        self.rows = sqlite3.connect(f"{run.absolute().as_uri()}?mode=ro", uri=True)
        self.meta = {name: json.loads(text) for name, text in self.rows.execute("SELECT name, value FROM meta")}
        self.images, self.classifier = np.load(images)["images"], self.meta["classifier"]
        self.config, self.sigma = self.meta["config"], self.classifier["sigma"]
        self.problems: list[str] = []
        known = {"rs": ["classifier"], "dds": ["denoiser", "classifier"]}
        if self.classifier["method"] not in known:
            raise SystemExit(
                f"{run} is a run of {self.classifier['method']}: this audits rs and dds, `verify` the others"
            )
        if self.classifier["noise_version"] != 2:
            raise SystemExit(f"{run} has noise of version {self.classifier['noise_version']}: this audits version 2")
        roles = known[self.classifier["method"]]
        for role, path in zip(roles, engines, strict=True):
            self.check(
                hashlib.sha256(path.read_bytes()).hexdigest() == self.classifier[role]["sha256"], f"{path} differs"
            )
        self.exact = all(self.classifier[role]["backend"] == "onnxruntime" for role in roles)
        self.batch = self.classifier[roles[0]]["batch"]
        self.networks = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in engines]
        self.weights = grid_weights(self.sigma)
        self.bits, self.own_below, self.alias = alias_table(self.weights)
        self.noise = self.images[0].size * len(self.weights) / 2**65  # how far it may be from Gaussian, in probability
        self.radii = sorted(self.config.get("radius", []))
        self.sequential = bool(self.radii or self.config.get("tolerance"))
        self.looks = looks(self.config["n"]) if self.sequential else [self.config["n"]]
        self.distance: dict[int, float] = {}
        if self.meta["format"] > 2:
            self.distance = dict(self.rows.execute("SELECT image, distance FROM images WHERE distance > 0"))
        if self.distance and self.radii:
            raise SystemExit(f"{run} has preset radii and images off the grid: this audits one or the other")
        if self.meta.get("slack"):
            raise SystemExit(f"{run} ran where last bits depend on a row's place: use `verify`")
        self.binomial = Binomial()
        self.alpha = self.config["alpha"] / (self.meta["images"] if self.config.get("family_wise") else 1)

    def check(self, agrees: bool, problem: str) -> None:
        if not agrees:
            self.problems.append(problem)

    def noisy(self, image: int, phase: int, sample: int) -> Any:
        """float32 [C, H, W]."""
        pixels = self.images[image].transpose(2, 0, 1)
        nonce = b"".join(word.to_bytes(8, "little") for word in (phase, image, sample))
        stream = ChaCha20.new(key=bytes.fromhex(self.meta["key"]), nonce=nonce).encrypt(bytes(8 * pixels.size))
        words = np.frombuffer(stream, "<u8").reshape(pixels.shape)
        column = words >> np.uint64(64 - self.bits)
        own = (words & np.uint64(2 ** (64 - self.bits) - 1)) < self.own_below[column]
        k = np.where(own, column.astype(np.int64), self.alias[column]) - len(self.weights) // 2
        return (pixels + k).astype(np.float32) / np.float32(255)

    def counts(self, text: str) -> list[int]:
        """Votes of every class from the text that stands for them; up to format 3 that was a list of all."""
        held = json.loads(text)
        if self.meta["format"] < 4:
            return list(held)
        votes = [held.get(str(label), 0) for label in range(self.meta["classes"])]
        known = json.dumps({str(label): count for label, count in enumerate(votes) if count}, separators=(",", ":"))
        self.check(known == text, f"votes {text} are not written as a run writes them")
        return votes

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
        recorded = self.counts(counts)
        moved = sum(abs(a - b) for a, b in zip(votes, recorded, strict=True)) / 2
        agrees = moved == 0 if self.exact else moved <= 0.05 * (stop - start)
        self.check(agrees, f"image {image}, phase {phase}, from sample {start}: votes {votes}, recorded {recorded}")

    def thresholds(self) -> None:
        """Whether hits (misses) reach what certifies (refutes) a radius as rarely as they have to if that were wrong.

        15/16 of alpha, half of it for each kind where there are several radii, is spent in `share`s. A threshold has to keep to
        that, and, lest it was chosen by the votes, be the least that does (with `family_wise` it may be above that).
        """
        level = self.alpha * 15 / 16 / (1 if len(self.radii) == 1 else 2)
        for radius in self.radii:
            draws, certify, refute = (list(row) for row in zip(*self.meta["thresholds"][repr(radius)], strict=True))
            self.check(draws == self.looks, f"radius {radius}: thresholds at other looks")
            misses = [now - most for now, most in zip(self.looks, refute, strict=True)]
            for kind, least, x in (("certify", certify, radius), ("refute", misses, -radius)):
                carried = self.binomial.crossings(normal(x / self.sigma) + self.noise, self.looks, least)
                for now, (crossed, further) in zip(self.looks, carried, strict=False):
                    room = level * share(now)
                    fits = crossed <= room and (further > room * (1 - 1e-7) or self.config.get("family_wise"))
                    self.check(fits, f"radius {radius}: threshold to {kind} at {now}: {crossed} of {room} is spent")

    def decide(self, hits: list[int]) -> list[str]:
        """What the hits at the looks so far say of each radius: what was reached first.

        A radius is certified only if all smaller ones are, and refuted only if all larger ones are.
        """
        found = []
        for radius in self.radii:
            rows = zip(hits, self.meta["thresholds"][repr(radius)], strict=False)
            said = ["certified" if h >= least else "refuted" for h, (_, least, most) in rows if h >= least or h <= most]
            found.append(said[0] if said else "undecided")
        first = tuple(found)
        for i, answer in enumerate(first):
            implied = first[:i] if answer == "certified" else first[i + 1 :]
            if any(other != answer for other in implied):
                found[i] = "undecided"
        return found

    def votes(self, image: int, phase: int) -> tuple[list[int], Any]:
        """Where the blocks of an image and phase end, and the votes up to there; 0 and no votes come first."""
        query = "SELECT start, stop, counts FROM blocks WHERE image = ? AND phase = ? ORDER BY start"
        ends, votes = [0], np.zeros((1, self.meta["classes"]), np.int64)
        for start, stop, text in self.rows.execute(query, (image, phase)):
            counts = self.counts(text)
            follows = start == ends[-1] and min(counts) >= 0 and sum(counts) == stop - start
            self.check(follows, f"image {image}, phase {phase}: the block from {start} does not fit")
            ends.append(stop)
            votes = np.vstack([votes, votes[-1] + counts])
        return ends, votes

    def result(self, image: int, predict: int, radius: float, hits: int, trials: int) -> None:
        """Class, radius and decisions of an image, from its recorded votes."""
        (*_, last), selection = self.votes(image, 0)
        ends, votes = self.votes(image, 1)
        best = int(selection[-1].argmax())
        draws, seen = (ends[1:], votes[1:, best].tolist()) if self.sequential else (ends[-1:], [int(votes[-1, best])])
        complete = bool(draws) and draws == self.looks[: len(draws)]
        self.check(complete and last == self.config["n0"], f"image {image}: not the blocks that were asked for")
        if not complete:
            return
        certified, alpha = 0.0, self.alpha
        if self.radii:
            said, alpha = self.decide(seen), alpha / 16
            self.check("undecided" in self.decide(seen[:-1]), f"image {image}: went on when all was decided")
            recorded = self.rows.execute("SELECT radius, decision FROM decisions WHERE image = ? ORDER BY 1", (image,))
            self.check(recorded.fetchall() == list(zip(self.radii, said, strict=True)), f"image {image}: decisions")
            certified = max([0.0, *(r for r, what in zip(self.radii, said, strict=True) if what == "certified")])
        agrees = (hits, trials) == (seen[-1], draws[-1]) and predict == (best if radius > 0 else -1)
        moved = self.distance.get(image, 0.0)
        holds = radius <= certified or self.bounded(radius and radius + moved - 1e-9, seen, draws, alpha)
        self.check(agrees and holds, f"image {image}: class {predict}, radius {radius} do not follow from the votes")

    def bounded(self, radius: float, hits: list[int], draws: list[int], alpha: float) -> bool:
        """Whether a look's Clopper–Pearson bound gives the radius: so many hits are rare enough if it is too large."""
        p = normal(radius / self.sigma) + self.noise
        spent = [0.0, *(share(now) for now in draws)] if self.sequential else [0.0, 1.0]
        return radius <= 0 or any(
            self.binomial.mass(now, p)[h:].sum() <= alpha * (after - before)
            for h, now, before, after in zip(hits, draws, spent[:-1], spent[1:], strict=True)
        )

    def run(self, blocks: int | None) -> int:
        """Everything; how many problems there were."""
        digests = dict(self.rows.execute("SELECT image, sha256 FROM images"))
        for image, digest in digests.items():
            pixels = self.images[image]
            found = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            self.check(found == digest, f"image {image}: other pixels")
        held = self.rows.execute("SELECT image, phase, start, stop, counts FROM blocks").fetchall()
        self.check({row[0] for row in held} <= {*digests}, "votes on images whose pixels are not hashed")
        chosen = held if blocks is None else random.SystemRandom().sample(held, min(blocks, len(held)))
        for row in chosen:
            self.block(*row)
        results = []
        if self.config["command"] == "certify":
            results = self.rows.execute("SELECT image, predict, radius, hits, trials FROM results").fetchall()
            self.check(len(results) <= self.meta["images"], "more images than the run says")
            self.thresholds()
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
