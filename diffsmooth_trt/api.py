"""certify and predict: a configuration in, an open run store out."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .certify.batch_size import Fitted, fit, search
from .certify.lipschitz import published_constant, run_margins, verify_margins
from .certify.loop import Progress, Runner
from .certify.places import SLACK
from .certify.rules import RadiusRule, rule_of
from .device import CPU, Device, open_device
from .device.selftest import check_device_noise
from .engine import Engine, choose_backend, fixed_batch, open_engine
from .errors import InputError
from .images import Images
from .methods import DIFFUSION_CLASSIFIERS, DenoisedSmoothing, DiffSmooth, DiffusionClassifier, Method, Plain
from .methods.diffusion_classifier import Settings
from .noise import NOISE_VERSION, grid_law
from .report.tsv import write_tsv
from .runs.config import RunConfig, parse_key, recorded_key
from .runs.identity import check_noise_version, differences, fingerprint, rows_note
from .runs.reopen import check_weights, recorded_config
from .runs.store import RunStore, is_empty, open_run
from .runs.verify import Verification, check_fraction, check_identity, note_rows, verify_votes


class Silent:
    """Progress that nobody looks at."""

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Ignore it."""

    def update(self, samples: int, images: int) -> None:
        """Ignore it."""


def build_method(config: RunConfig, batch: int | None = None, device: Device | None = None) -> Method:
    """Open the engines for `batch` rows on `device`, the configuration's unless given, and combine them as it asks."""
    opened: list[Engine] = []
    device = open_device(config.device) if device is None else device
    batch = int(config.batch) if batch is None else batch
    try:
        return _build(config, {"batch": batch, "device": device}, opened)
    except BaseException:
        for engine in opened:
            engine.close()
        device.release()
        raise


def _build(config: RunConfig, options: dict[str, Any], opened: list[Engine]) -> Method:
    options |= {name: getattr(config, name) for name in ("backend", "precision", "threads", "allow_host_code")}

    def engine_of(path: Path | None, role: str, sigma: float | None = None) -> Engine:
        opened.append(open_engine(path or "", role=role, sigma=sigma, **options))
        return opened[-1]

    if config.method == "rs":
        return Plain(engine_of(config.engine, "classifier"), float(config.sigma or 0))
    if config.method in DIFFUSION_CLASSIFIERS:
        engine = engine_of(config.engine, "conditional")
        settings = Settings(**{name: getattr(config, name) for name in Settings.names()})
        return DiffusionClassifier(config.method, engine, float(config.sigma or 0), settings)
    denoiser = engine_of(config.engine, "denoiser", config.sigma)
    classifier = engine_of(config.classifier, "classifier")
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


def fitted_method(config: RunConfig, device: Device) -> Fitted:
    """The run's method at its batch size: that of the run in `config.out`, of the files, or the one that fits or is fastest."""
    recorded = _recorded_batch(config)
    files = [path for path in (config.engine, config.classifier) if path is not None]
    fixed = next((rows for rows in map(fixed_batch, files) if rows), None) if config.batch == "auto" else None

    def build(batch: int) -> Method:
        return build_method(config, batch, device)

    if recorded or fixed:
        return Fitted(build(int(recorded or fixed or 0)))
    return search(build, device) if config.batch == "auto" else fit(build, int(config.batch))


def _recorded_batch(config: RunConfig) -> int | None:
    """The batch size of the run to be resumed, if it was found for what is asked now."""
    if not config.resume or not config.out.is_file() or is_empty(config.out):
        return None
    with open_run(config.out) as store:
        check_noise_version(config.out, store.meta)
        choice = store.meta.get("batch_choice")
        if isinstance(choice, dict) and choice.get("asked") == config.batch:
            return int(choice["chosen"])
        if config.batch != "auto":
            return None
        classifier = store.meta["classifier"]
        return int(next(classifier[role]["batch"] for role in ("denoiser", "classifier") if role in classifier))


def classifier_id(method: Method) -> dict[str, Any]:
    """Everything that decides a vote besides key and image, with the hash that names it."""
    parts = {
        **method.identity,
        "noise_version": NOISE_VERSION,
        "sigma": method.sigma,
        **{role: engine.identity for role, engine in method.engines.items()},
    }
    return {**parts, "id": fingerprint(parts)}


def versions(device: Device = CPU) -> dict[str, str]:
    """What a run records of the software and the machine it ran on."""
    return {
        "diffsmooth-trt": version("diffsmooth-trt"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        **device.versions,
    }


def independence(engines: Mapping[str, Engine]) -> dict[str, str]:
    """Whether rows are "proved" or "assumed" to be independent, for each engine by its role."""
    return {role: engine.rows for role, engine in engines.items()}


def describe(config: RunConfig, method: Method, images: Images) -> dict[str, Any]:
    """What decides a run's results besides its key: what the store records, and what a resumed run must agree with."""
    law = grid_law(method.sigma) if config.certificate == "smoothing" else None
    described: dict[str, Any] = {
        "config": config.recorded(),
        "classifier": classifier_id(method),
        "classes": method.bins,
        "law": law.digest if law else "",
        "total_variation": law.tv_bound(int(np.prod(method.input_shape))) if law else 0.0,
        "data": images.identity,
        "images": len(images),
    }
    if isinstance(method, DiffusionClassifier) and law is None:
        described["lipschitz_constant"] = config.lipschitz or published_constant(method.terms)
    if method.void is not None:
        described["void"] = method.void
    if method.place_dependent:
        described["slack"] = SLACK
    rule = rule_of(described)
    if isinstance(rule, RadiusRule):
        described["thresholds"] = rule.recorded
    return described


def _refuse_existing(config: RunConfig) -> None:
    if config.out.exists() and not config.out.is_file():
        raise InputError(f"--out {config.out} is not a regular file: give another name")
    if config.out.exists() and not is_empty(config.out) and not config.resume:
        raise InputError(f"--out {config.out} exists: pass --resume to go on with it, or another name")


def open_store(config: RunConfig, described: dict[str, Any], found: dict[str, Any] | None = None) -> RunStore:
    """A new store for the run, or with `config.resume` the one that is there, if it is of the same run.

    `found` is what a new store keeps beside that: of this machine, and how the batch was chosen.
    """
    _refuse_existing(config)  # again: another run may have made the file since the first look
    if not config.out.exists() or is_empty(config.out):
        drawn = recorded_key(config.key)
        named = {"engine": config.engine, "classifier": config.classifier, "data": config.data}
        files = {name: path if path is None else str(path) for name, path in named.items()}
        found = {"versions": versions(), **(found or {}), "source": config.data.name, "files": files}
        return RunStore.create(config.out, {**described, **drawn, **found})
    store = RunStore.open(config.out, write=True)
    try:
        recorded: dict[str, Any] = {name: store.meta.get(name) for name in described}
        longer = _is_longer(recorded["config"], described["config"])
        if longer:
            plan_depends = ("config", "thresholds")
            described = {name: value for name, value in described.items() if name not in plan_depends}
        differing = differences({name: recorded[name] for name in described}, described)
        if config.key is not None and parse_key(config.key) != int(store.meta["key"], 16):
            differing.append("key (another one was given)")
    except (AttributeError, TypeError, ValueError):
        differing = ["meta, which is damaged"]
    if not differing and not store.has_distances:
        differing = ["quantise: an older version made it, which did not record how far it moved each image"]
    if not differing and longer and not store.plan.sequential:
        differing = [f"n: a fixed n ({recorded['config']['n']}) was chosen for its bounds, no more draws may follow"]
    if differing:
        store.close()
        raise InputError(
            f"--resume {config.out}: the run differs in {'; '.join(differing[:3])}; use its settings or another --out"
        )
    if longer:
        store.extend(config.n)
    return store


def _is_longer(recorded: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether two configurations differ in the number of draws alone, the second having more."""
    return bool("n" in asked and {**recorded, "n": asked["n"]} == asked and asked["n"] > recorded["n"])


def _open_images(config: RunConfig) -> Images:
    return Images(
        config.data,
        skip=config.skip,
        limit=config.max,
        resize=config.resize,
        crop=config.crop,
        quantise=config.quantise,
    )


def _check_images(images: Images, method: Method) -> None:
    for row, label in zip(images.rows, images.labels(), strict=True):
        if not 0 <= label < method.classes:
            raise InputError(
                f"image {row} has label {label}, the classifier has {method.classes} classes: "
                "give the data set that it was trained for"
            )


def run(config: RunConfig, progress: Progress | None = None) -> RunStore:
    """Run `config` to its end and return the store, open for reading; nothing is written before all of it is checked."""
    _refuse_existing(config)
    if config.device == "cpu":
        choose_backend(config.backend)
    images = _open_images(config)
    device = open_device(config.device)
    fitted = fitted_method(config, device)
    method = fitted.method
    try:
        _check_images(images, method)
        laws = [grid_law(method.sigma)] if config.certificate == "smoothing" else []
        for law in (*laws, *([method.law] if isinstance(method, DiffSmooth | DiffusionClassifier) else [])):
            with device.errors():
                check_device_noise(law, device)  # a method's own noise has a law of its own
        shape = list(method.input_shape)  # of the space that radii are distances in
        found = {"versions": versions(device), "shape": shape, "rows": independence(method.engines)}
        found |= {"batch_choice": fitted.choice} if fitted.choice else {}
        with open_store(config, describe(config, method, images), found) as store:
            if store.meta.get("rows") != found["rows"]:
                store.add_notes([f"a resumed part of this run: {rows_note(found)}"])
            try:
                if config.certificate == "lipschitz" and isinstance(method, DiffusionClassifier):
                    run_margins(method, store, images, progress or Silent())
                else:
                    Runner(method, store, progress or Silent()).run(images)
            finally:
                store.add_notes(method.notes)  # of votes that an interrupted run keeps, too
            if isinstance(method, DiffusionClassifier):
                store.add_evaluations(method.votes, method.evaluations)
            if config.tsv is not None:
                write_tsv(config.tsv, store)
    finally:
        method.close()
    return open_run(config.out)


def certify(*, progress: Progress | None = None, **options: Any) -> RunStore:
    """Certify images as Cohen et al. 2019 (CERTIFY) do: class by n0 draws, radius by n fresh ones, at level alpha.

    Takes the fields of `RunConfig` by name (engine, classifier, data, out, method, sigma, n0, n, alpha, …). Returns the run
    store, open for reading. For each image, the radius is wrong with probability at most alpha over the noise. With `quantise` the
    radius is about the image as given: how far rounding moved it is recorded and taken off. Raises AuditError, and marks the
    store void, where rows that the run evaluates again among others have other labels (certify/self_audit.py).
    """
    return run(_config("certify", options), progress)


def predict(*, progress: Progress | None = None, **options: Any) -> RunStore:
    """Predict as Cohen et al. 2019 (PREDICT) do: the winner of n draws, or −1 where the top two are too close at alpha.

    With `quantise` the answer is about each image as given, though the noise is added to the rounded one (`bounds.prediction_at`).
    """
    return run(_config("predict", options), progress)


def verify(
    run: str | Path,
    *,
    fraction: float = 0.01,
    engine: str | Path | None = None,
    classifier: str | Path | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    blocks_seed: int | None = None,
    allow_host_code: bool = False,
    unfinished: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Draw a random `fraction` of a run's blocks again and compare their votes; derive and check the rest of the store.

    At least 30 blocks are drawn, all where there are fewer. A run that lacks images it was asked for does not agree, unless
    it may be `unfinished`: then they are noted, and what is there is verified.

    The files are those that the run records unless given, the kind of device too ("cpu" or "cuda:0"). `blocks_seed` repeats
    an earlier choice of blocks, which is fresh otherwise. `allow_host_code` lets a TensorRT plan load host code that it
    holds. `agrees` of what it returns says whether all of it is reproduced. Raises InputError for what cannot be verified:
    missing files, engines that are not the run's.
    """
    check_fraction(fraction)
    seed = secrets.randbits(64) if blocks_seed is None else blocks_seed
    given = {"engine": engine, "classifier": classifier, "data": data}
    with open_run(run) as store:
        check_noise_version(store.path, store.meta)
        paths = {name: None if path is None else Path(path) for name, path in given.items()}
        config = replace(recorded_config(store, paths, threads, device), allow_host_code=allow_host_code)
        images = _open_images(config)
        opened = open_device(config.device)
        method = build_method(config, device=opened)
        try:
            check_weights(store.meta, method.engines)
            shape = store.meta.get("shape", list(method.input_shape))
            here = describe(config, method, images)
            options: dict[str, Any] = {"fraction": fraction, "seed": seed, "unfinished": unfinished}
            if config.certificate == "lipschitz" and isinstance(method, DiffusionClassifier):
                done = verify_margins(store, method, images, here, **options)
            else:
                done = verify_votes(store, method, images, here, progress=progress or Silent(), **options)
        finally:
            method.close()
        if shape != list(method.input_shape):
            done.mismatches.append(f"shape: recorded {shape}, here {list(method.input_shape)}")
        note_rows(store.meta, method.engines, done)
        check_identity(store.meta, here["classifier"], versions(opened), done)
    return done


def _config(command: str, options: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig(command=command, **options)
    except TypeError as error:
        raise InputError(f"{command}: {str(error).removeprefix('RunConfig.__init__() ')}") from None
