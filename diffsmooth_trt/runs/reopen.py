"""From a run store back to the configuration that draws its votes: what it records, and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..engine import BACKENDS, CUDA_BACKENDS, Engine
from ..errors import InputError
from ..files import file_sha256
from ..methods.diffusion_classifier import Settings
from .config import RunConfig
from .store import RunStore

Given = dict[str, Path | None]
FILES = ("engine", "classifier", "data")
RS_ROLES = {"engine": "classifier"}


class Run(Protocol):
    """What any kind of run says of itself."""

    path: Path

    @property
    def meta(self) -> Mapping[str, Any]:
        """Its description, with the recorded paths as `files`."""


def recorded_config(store: RunStore, given: Given, threads: int | None, device: str | None = None) -> RunConfig:
    """The run's configuration, its files being those `given` under the names in FILES, else those that it records.

    It is for `device`, by default the kind that it ran on. Precision and batch are those that ran, so that this machine
    computes alike if it can. Raises InputError for files that are missing or whose SHA-256 is not the recorded one, and for
    values that no run writes.
    """
    with usable(f"{store.path} holds values in its table meta"):
        return _config(store, given, threads, device)


@contextmanager
def usable(values: str) -> Iterator[None]:
    """Turn what odd values raise into an InputError that begins with where they are."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{values} that this version cannot use ({error}): use the version that wrote it, or restore it from a copy"
        ) from error


def _config(store: RunStore, given: Given, threads: int | None, device: str | None) -> RunConfig:
    classifier: dict[str, Any] = store.meta["classifier"]
    if not isinstance(store.meta["versions"], dict):
        raise TypeError("versions")
    roles = _roles(classifier)
    needed = {*roles, "data", *(name for name in FILES if given[name] is not None)}
    files = {name: locate(store, name, given[name]) for name in FILES if name in needed}
    for name, role in roles.items():
        check_sha256(name, files[name], classifier[role]["sha256"])
    engines = [classifier[role] for role in roles.values()]
    chosen = [
        engine for engine in engines if engine["backend"] in {*BACKENDS, *CUDA_BACKENDS[".onnx"]}
    ]  # compiled engines leave no choice
    own = ("local_sigma", "m", *Settings.names())
    settings = {
        **store.meta["config"],
        **{name: classifier[name] for name in own if name in classifier},
        **files,
        "method": classifier["method"],
        "sigma": classifier["sigma"] or None,
        "batch": engines[0]["batch"],
        **placed(engines, chosen, device),
        "threads": threads,
        "key": store.meta["key"],
        "out": store.path,
    }
    return RunConfig(**settings)


def placed(engines: list[dict[str, Any]], chosen: list[dict[str, Any]], device: str | None) -> dict[str, Any]:
    """Device, and backend and precision of those `chosen`, that compute as the recorded engines did, as far as it can."""
    ran_on = "cuda:0" if any("device" in engine for engine in engines) else "cpu"
    device = device or ran_on
    backends, precisions = ({engine[name] for engine in chosen} for name in ("backend", "precision"))
    # bf16 is not asked for but left to the CPU: one without it computes in fp32, and the classifier id says so
    precision = None if not chosen or any("bf16" in name for name in precisions) else "fp32"
    if (device == "cpu") != (ran_on == "cpu"):
        return {"device": device, "backend": None, "precision": precision}  # near, never the same bits
    if device != "cpu":
        precision = next((name for name in ("tf32", "fp32") if name in precisions), None)
    return {"device": device, "backend": backends.pop() if len(backends) == 1 else None, "precision": precision}


def _roles(classifier: dict[str, Any]) -> dict[str, str]:
    """The engines' names on the command line, and in the classifier id."""
    both = {"engine": "denoiser", "classifier": "classifier"}
    return {name: role for name, role in both.items() if role in classifier} if "denoiser" in classifier else RS_ROLES


def locate(store: Run, name: str, given: Path | None) -> Path:
    """The file `given`, else the one that a run records as `name`."""
    option = f"--{name.replace('_', '-')}"
    if given is not None:
        return given
    recorded = store.meta.get("files", {}).get(name)
    if recorded is None:
        raise InputError(f"{store.path} does not record the path of its {option}: pass {option}")
    return find(store.path, recorded, option)


def find(run: Path, recorded: str, option: str) -> Path:
    """The file that `run` records as its `option`, where it was or beside the run; InputError if it is not there."""
    for path in (Path(recorded), run.parent / recorded):
        if path.exists():
            return path
    raise InputError(f"{option} {recorded}, which {run} records, is not here: pass {option} with its new place")


def check_sha256(name: str, path: Path, recorded: str) -> None:
    """Raise InputError unless the file is there and is the one with that SHA-256."""
    if not path.is_file():
        raise InputError(f"--{name} {path} does not exist: pass the file that the run used")
    found = file_sha256(path)
    if found != recorded:
        raise InputError(
            f"--{name} {path} has SHA-256 {found[:16]}…, the run used {recorded[:16]}…: pass the file that the run used"
        )


def check_weights(meta: Mapping[str, Any], engines: Mapping[str, Engine]) -> None:
    """Raise InputError unless files of weights beside the engines, by role, are the run's too."""
    for role, engine in engines.items():
        found, recorded = engine.identity.get("weights"), meta["classifier"][role].get("weights")
        if found != recorded:
            raise InputError(
                f"{engine.path} has weights files {found}, the run used {recorded}: put the run's files beside it"
            )
