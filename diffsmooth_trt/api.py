"""certify, predict and verify, with every argument in the signature; each is one call down.

Options of a method alone (`METHODS[method].Options`) are arguments too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .certify.progress import Progress
from .device.several import ALL, present_devices
from .engine import ENGINE_SUFFIXES
from .report.tsv import write_tsv
from .runs import run as running
from .runs import verify as verifying
from .runs.config import LOCAL, RunConfig
from .runs.resume import refuse_existing
from .runs.store import RunStore
from .runs.verify import Verification

File = str | Path


def run(config: RunConfig, progress: Progress | None = None) -> RunStore:
    """Run `config` to its end and return the store, open for reading; write its table of results where it asks for one.

    Plans that were built on another machine are compared with their graphs first, once a card (`exporting.plan_check`).
    """
    _compare_plans(config)
    if config.cluster.address is None:
        store = running.run(config, progress)
    else:
        from .distributed import run as distributed

        store = distributed.run(config, progress)
    if config.output.tsv is not None:
        try:
            write_tsv(config.output.tsv, store)
        except BaseException:
            store.close()
            raise
    return store


def with_engines(
    config: RunConfig,
    cache: File | None = None,
    *,
    usual: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> RunConfig:
    """`config` with engine files where it names networks that are none yet, which are exported into `cache` unless they are there.

    None stands for `usual`, and that for ~/.cache/diffsmooth-trt; see `exporting.cache`, of which nothing is imported for engine
    files. `say` is told of each network in a line; by default the logger "diffsmooth_trt" is, at level INFO.
    """
    if all(path.suffix in ENGINE_SUFFIXES for path in config.files.values()):
        return config
    from .exporting.cache import Cache, with_exported

    refuse_existing(config.output)  # before the long work
    place = None if cache is None else Path(cache)
    return with_exported(config, Cache(place, usual) if say is None else Cache(place, usual, say))


def _compare_plans(config: RunConfig) -> None:
    """Compare the run's plans on each kind of card of this machine that it runs on, where that is still to be done.

    Machines of a cluster are others: they compare nothing. Nothing of it is imported for runs without plans.
    """
    cluster, device = config.cluster, config.engines.device
    plans = any(path.suffix == ".plan" for path in config.files.values())
    if device == "cpu" or not plans or cluster.ray not in (None, LOCAL):
        return
    from .exporting.plan_check import compare_plans

    several = cluster.devices or ((ALL,) if cluster.ray == LOCAL else ())
    for each in present_devices(several) or (device,):
        compare_plans(config.files.values(), each)


def certify(
    *,
    engine: File,
    data: File,
    out: File | None = None,
    classifier: File | None = None,
    unconditional: File | None = None,
    method: str = "dds",
    sigma: float | None = None,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    radius: float | tuple[float, ...] | None = None,
    tolerance: float | None = None,
    family_wise: bool = False,
    certificate: str = "smoothing",
    lipschitz: float | None = None,
    skip: int = 1,
    max: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    quantise: bool = False,
    channels: int | None = None,
    bad_images: str = "refuse",
    resize_mode: str = "bicubic",
    class_map: File | None = None,
    batch: int | str = 64,
    backend: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    threads: int | None = None,
    allow_host_code: bool = False,
    key: str | None = None,
    key_file: File | None = None,
    shard: str | None = None,
    stop_after: float | None = None,
    resume: bool = False,
    tsv: File | None = None,
    ray: str | None = None,
    workers: int | None = None,
    cache: File | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RunStore:
    """Certify images as Cohen et al. 2019 (CERTIFY) do: class by n0 draws, radius by n fresh ones, at level alpha.

    engine, classifier, unconditional: the method's engine files, or networks that are none yet: a checkpoint, a local Hugging Face
    or diffusers folder, or "NAME:CHECKPOINT", each exported once into the folder `cache` (`with_engines`). data: a data set (see
    `Images`), of which skip, max, resize, resize_mode, crop, quantise, channels and bad_images choose images. class_map: which
    class a name is (`read_class_map`).
    out: the run store to make, None to keep the run in memory. method: a name in `METHODS`; its own options are arguments too.
    sigma: noise level in image units, in [0.01, 4]; None where a denoiser says its own. radius, tolerance, family_wise,
    certificate, lipschitz: see `Stopping`. batch, backend, device, precision, threads, allow_host_code: see `open_engine`. key:
    64 hexadecimal digits, None to draw one; key_file: a file that holds it, which the first run makes. shard: the part of the
    images that this machine draws, like "2/3" (see `merge`). stop_after: hours, after which Stopped is raised; resume goes on
    then. ray, workers: "local" or the address of a Ray cluster, whose workers draw; a list of devices ("cuda:0,cuda:1", "all",
    "cpu,cpu") asks for a worker on each of this machine's. tsv: a file for `idx label predict radius correct time`.

    Returns the run store, open for reading. For each image, the radius (ℓ2, image units) is wrong with probability at most alpha
    over the noise. With `quantise` the radius is about the image as given: how far rounding moved it is recorded and taken off.
    Raises InputError for what cannot be, AuditError, and marks the store void, where rows that the run evaluates again among
    others have other labels (certify/self_audit.py).
    """
    given = {name: value for name, value in locals().items() if name not in ("cache", "progress", "options")}
    return run(with_engines(RunConfig("certify", **given, **options), cache), progress)


def predict(
    *,
    engine: File,
    data: File,
    out: File | None = None,
    classifier: File | None = None,
    unconditional: File | None = None,
    method: str = "dds",
    sigma: float | None = None,
    n: int = 100_000,
    alpha: float = 0.001,
    skip: int = 1,
    max: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    quantise: bool = False,
    channels: int | None = None,
    bad_images: str = "refuse",
    resize_mode: str = "bicubic",
    class_map: File | None = None,
    batch: int | str = 64,
    backend: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    threads: int | None = None,
    allow_host_code: bool = False,
    key: str | None = None,
    key_file: File | None = None,
    shard: str | None = None,
    stop_after: float | None = None,
    resume: bool = False,
    tsv: File | None = None,
    ray: str | None = None,
    workers: int | None = None,
    cache: File | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RunStore:
    """Predict as Cohen et al. 2019 (PREDICT) do: the winner of n draws, or −1 where the top two are too close at alpha.

    Arguments, result and errors are those of `certify`. With `quantise` the answer is about each image as given, though the noise
    is added to the rounded one (`bounds.prediction_at`).
    """
    given = {name: value for name, value in locals().items() if name not in ("cache", "progress", "options")}
    return run(with_engines(RunConfig("predict", **given, **options), cache), progress)


def verify(
    run: File,
    *,
    fraction: float = 0.01,
    engine: File | None = None,
    classifier: File | None = None,
    unconditional: File | None = None,
    data: File | None = None,
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
    files = {"engine": engine, "classifier": classifier, "unconditional": unconditional, "data": data}
    return verifying.verify(
        run,
        given={name: None if path is None else Path(path) for name, path in files.items()},
        fraction=fraction,
        device=device,
        threads=threads,
        seed=secrets.randbits(64) if blocks_seed is None else blocks_seed,
        allow_host_code=allow_host_code,
        unfinished=unfinished,
        progress=progress,
    )
