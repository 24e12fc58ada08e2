"""certify and predict: a configuration in, an open run store out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .certify.bounds import certificate, prediction
from .certify.plan import Plan
from .certify.runner import Finish, Progress, Runner
from .certify.store import RunStore, open_run
from .config import KEY_DIGITS, RunConfig, parse_key
from .data import Images
from .engine import choose_backend, open_engine
from .errors import InputError
from .methods import DenoisedSmoothing, DiffSmooth, Method, Plain
from .noise import ESTIMATION, NOISE_VERSION, PREDICTION, SELECTION, grid_law
from .report.tsv import write_tsv


class Silent:
    """Progress that nobody looks at."""

    def start(self, images: int, finished: int, samples: int, drawn: int) -> None:
        """Ignore it."""

    def update(self, samples: int, images: int) -> None:
        """Ignore it."""


def build_method(config: RunConfig) -> Method:
    """Open the engines and combine them as `config.method` asks."""
    options: dict[str, Any] = {
        name: getattr(config, name) for name in ("batch", "backend", "device", "precision", "threads")
    }
    if config.method == "rs":
        return Plain(open_engine(config.engine, role="classifier", **options), float(config.sigma or 0))
    denoiser = open_engine(config.engine, role="denoiser", sigma=config.sigma, **options)
    classifier = open_engine(Path(config.classifier or ""), role="classifier", **options)
    if config.method == "dds":
        return DenoisedSmoothing(denoiser, classifier)
    return DiffSmooth(
        denoiser,
        classifier,
        local_sigma=config.local_sigma,
        copies=config.m,
        seed=config.classifier_seed,
        fresh=config.local_noise == "fresh",
    )


def classifier_id(method: Method) -> dict[str, Any]:
    """Everything that decides a vote besides key and image, with the hash that names it."""
    parts = {
        **method.identity,
        "noise_version": NOISE_VERSION,
        "sigma": method.sigma,
        **{role: engine.identity for role, engine in method.engines.items()},
    }
    text = json.dumps(parts, sort_keys=True)
    return {**parts, "id": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _versions() -> dict[str, str]:
    return {
        "diffsmooth-trt": version("diffsmooth-trt"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    }


def _differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted({*stored, *asked} - {"id"}):
        old, new = stored.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} (run: {old}, asked: {new})")
    return found


def _open_store(config: RunConfig, identity: dict[str, Any]) -> RunStore:
    fresh = not config.out.exists() or not config.out.stat().st_size
    if not fresh and not config.resume:
        raise InputError(f"--out {config.out} exists: pass --resume to go on with it, or another name")
    if fresh:
        key = parse_key(config.key) if config.key is not None else secrets.randbits(128)
        return RunStore.create(
            config.out,
            {
                "config": config.recorded(),
                "classifier": identity,
                "key": f"{key:0{KEY_DIGITS}x}",
                "key_source": "given" if config.key is not None else "drawn",
                "law": grid_law(identity["sigma"]).digest,
                "versions": _versions(),
                "data": str(config.data.name),
                "command_line": sys.argv[1:],
            },
        )
    store = RunStore.open(config.out, write=True)
    asked = {"config": config.recorded(), "classifier": identity, "law": grid_law(identity["sigma"]).digest}
    differing = _differences({name: store.meta.get(name) for name in asked}, asked)
    if config.key is not None and parse_key(config.key) != int(store.meta["key"], 16):
        differing.append("key (another one was given)")
    if differing:
        store.close()
        raise InputError(
            f"--resume {config.out}: the run differs in {'; '.join(differing[:3])}; use its settings or another --out"
        )
    return store


def _finisher(config: RunConfig, method: Method) -> Finish:
    tv = grid_law(method.sigma).tv_bound(int(np.prod(method.input_shape)))

    def certified(store: RunStore, image: int) -> None:
        selection = np.array(store.counts(image, SELECTION, method.classes), dtype=np.int64)
        estimation = np.array(store.counts(image, ESTIMATION, method.classes), dtype=np.int64)
        c = certificate(selection, estimation, config.alpha, method.sigma, tv)
        store.add_result(image, c.predict, c.radius, c.p_lower, c.hits, c.trials)

    def predicted(store: RunStore, image: int) -> None:
        counts = np.array(store.counts(image, PREDICTION, method.classes), dtype=np.int64)
        label = prediction(counts, config.alpha, tv)
        store.add_result(image, label, None, None, int(counts.max()), int(counts.sum()))

    return certified if config.command == "certify" else predicted


def run(config: RunConfig, progress: Progress | None = None) -> RunStore:
    """Run `config` to its end and return the store, open for reading. Nothing is written before all of it is checked."""
    images = Images(
        config.data,
        skip=config.skip,
        limit=config.max,
        resize=config.resize,
        crop=config.crop,
        quantise=config.quantise,
    )
    if config.out.exists() and config.out.stat().st_size and not config.resume:
        raise InputError(f"--out {config.out} exists: pass --resume to go on with it, or another name")
    choose_backend(config.backend)
    method = build_method(config)
    try:
        plan = Plan.certify(config.n0, config.n) if config.command == "certify" else Plan.predict(config.n)
        with _open_store(config, classifier_id(method)) as store:
            runner = Runner(
                method, plan, int(store.meta["key"], 16), store, _finisher(config, method), progress or Silent()
            )
            runner.run(images)
            if config.tsv is not None:
                write_tsv(config.tsv, store)
    finally:
        method.close()
    return open_run(config.out)


def certify(*, progress: Progress | None = None, **options: Any) -> RunStore:
    """Certify images as Cohen et al. 2019 (CERTIFY) do: class by n0 draws, radius by n fresh ones, at level alpha.

    Takes the fields of `RunConfig` by name (engine, classifier, data, out, method, sigma, n0, n, alpha, …). Returns the run
    store, open for reading. For each image, the radius is wrong with probability at most alpha over the noise.
    """
    return run(_config("certify", options), progress)


def predict(*, progress: Progress | None = None, **options: Any) -> RunStore:
    """Predict as Cohen et al. 2019 (PREDICT) do: the winner of n draws, or −1 where the top two are too close at alpha."""
    return run(_config("predict", options), progress)


def _config(command: str, options: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig(command=command, **options)
    except TypeError as error:
        raise InputError(f"{command}: {str(error).removeprefix('RunConfig.__init__() ')}") from None
