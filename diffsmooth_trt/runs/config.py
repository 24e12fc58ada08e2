"""The configuration of a run: frozen, validated at the edge, passed explicitly; each part is checked by its owner."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from ..certify.stopping import Stopping
from ..device.several import listed_devices
from ..engine.choice import EngineChoice
from ..errors import InputError
from ..files import check_outputs
from ..images import ImageChoice
from ..methods import METHODS, Method, MethodOptions, owners
from ..noise import Key, check_noise_level
from ..ranges import check_types, flag, integer, number, path, plain
from .shard import Shard, shared_key

MEMORY = ":memory:"
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a run's votes go (`out`, None: to memory), under which key they are drawn (None: that of `key_file`, which the first
    run makes, or a fresh one), which `shard` of the images this machine draws, and after how many hours it stops.
    """

    out: Path | None = None
    key: Key | None = None
    resume: bool = False
    tsv: Path | None = None
    key_file: Path | None = None
    shard: Shard | None = None
    stop_after: float | None = None

    @classmethod
    def given(
        cls,
        *,
        out: Any = None,
        key: Any = None,
        resume: bool = False,
        tsv: Any = None,
        key_file: Any = None,
        shard: Any = None,
        stop_after: float | None = None,
    ) -> Self:
        """The part of arguments as users give them: paths or their names, a key or its 64 hexadecimal digits, a shard like 2/3."""
        if str(out) == MEMORY:
            raise InputError(
                f"--out {MEMORY} is no file: give a file like run.sqlite; from Python out=None keeps no file"
            )
        if out is None and (resume or tsv is not None):
            raise InputError(f"--{'resume' if resume else 'tsv'} needs --out: give the run a file")
        made = key if key is None or isinstance(key, Key) else Key.parse(str(key))
        part = shard if shard is None or isinstance(shard, Shard) else Shard.parse(str(shard))
        if key is not None and key_file is not None:
            raise InputError("--key and --key-file are two ways to give one key, got both: leave one out")
        if part is not None and key is None and key_file is None:
            raise InputError(
                f"--shard {part} needs the key that all shards draw under: give --key-file key.txt, which the first one makes"
            )
        if part is not None and tsv is not None:
            raise InputError("--tsv is for whole runs, --shard makes a part: merge the shards, then `report --tsv`")
        if stop_after is not None:
            number("stop_after", stop_after, 0, 10**6, "give hours, 11.5 for example")
            if out is None:
                raise InputError("--stop-after needs --out: a run in memory keeps nothing to go on with")
        return cls(
            out=_path("out", out),
            key=made,
            resume=resume,
            tsv=_path("tsv", tsv),
            key_file=_path("key_file", key_file),
            shard=part,
            stop_after=stop_after,
        )

    def run_key(self) -> tuple[Key, bool]:
        """The key to draw under, and whether it was drawn now by this run rather than given."""
        if self.key is not None:
            return self.key, False
        return (Key.draw(), True) if self.key_file is None else shared_key(self.key_file)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Whether workers do the steps (`ray`: "local" or the address of a Ray cluster), and how many (None: as many as fit).

    A `device` that is a list asks for a worker on each: "local" with these.
    """

    ray: str | None = None
    workers: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_types(self)
        if self.devices:
            self._check_devices()
        if self.workers is not None:
            integer("workers", self.workers, 1, 10**6)
            if self.ray is None:
                raise InputError("--workers is for --ray: give --ray local, or leave it out")

    def _check_devices(self) -> None:
        """InputError for what does not go with a list of devices."""
        if self.workers is not None:
            raise InputError(f"--workers is said by --device {self.device} already, a worker each: leave it out")
        if self.ray not in (None, LOCAL):
            raise InputError(
                f"--device {self.device} is of this machine, --ray {self.ray} is a cluster: give --device cuda:0 for a "
                "worker on each of its GPUs, or leave --ray out"
            )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of a list (`listed_devices`); none where `device` is a single one."""
        return listed_devices(self.device)

    @property
    def address(self) -> str | None:
        """Where the workers are: "local", an address, or None where this process does the steps."""
        return LOCAL if self.devices else self.ray

    @property
    def kind(self) -> str:
        """The device that stands for all of a list, or the single one."""
        return self.device if not self.devices else "cpu" if "cpu" in self.devices else "cuda:0"


def _path(name: str, given: Any) -> Path | None:
    return None if given is None else path(name, given)


PARTS = (ImageChoice, EngineChoice, Stopping, Output, Cluster)


def slots() -> tuple[str, ...]:
    """The options that name engines' files, of all methods."""
    return tuple(dict.fromkeys(name for method in METHODS.values() for name in method.slots))


def options() -> dict[str, dataclasses.Field[Any]]:
    """The methods' own options by name; of each method those that it shares with others come last."""
    by_name: dict[str, dataclasses.Field[Any]] = {}
    for method in METHODS.values():
        fields = {each.name: each for each in dataclasses.fields(method.Options)}
        for kind in method.Options.__mro__:
            by_name |= {name: fields[name] for name in vars(kind).get("__annotations__", {}) if name not in by_name}
    return by_name


def names() -> tuple[str, ...]:
    """The names of `RunConfig`'s arguments, besides the command."""
    of_parts = (field.name for part in PARTS for field in dataclasses.fields(part) if field.name != "command")
    return tuple(dict.fromkeys(("data", "method", "sigma", *slots(), *of_parts, *options())))


@dataclass(frozen=True, init=False)
class RunConfig:
    """Everything that a certify or predict run is asked for.

    Its arguments are the command line's, under their names: `data`, the engines' files (`engine`, `classifier`), `method`,
    `sigma` (image units, None where a denoiser says it), the fields of `ImageChoice`, `EngineChoice`, `Stopping` and `Output`,
    and the options of the method. Raises InputError on construction for values that cannot be.
    """

    data: Path
    files: Mapping[str, Path]  # of the engines, by option
    method: type[Method]
    sigma: float | None
    options: MethodOptions
    choice: ImageChoice
    engines: EngineChoice
    stopping: Stopping
    output: Output
    cluster: Cluster
    given: Mapping[str, Any]

    def __init__(self, command: str, **given: Any) -> None:
        known = names()
        unknown = [name for name in given if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f": did you mean {near[0]}?" if near else ": leave it out"
            raise InputError(f"{command} got an unexpected keyword argument {unknown[0]!r}{hint}")
        missing = [name for name in ("engine", "data") if given.get(name) is None]
        if missing:
            raise InputError(f"{command} needs {flag(missing[0])}: give its file")
        name = given.get("method", "dds")
        if name not in METHODS:
            raise InputError(f"--method {name!r} is unknown: use one of {', '.join(METHODS)}")
        stopping = Stopping(command=command, **_of(Stopping, given))
        cluster = Cluster(**_of(Cluster, given))
        parts = {
            "given": MappingProxyType({"command": command, **given}),
            "method": METHODS[name],
            "stopping": stopping,
            "choice": ImageChoice(**_of(ImageChoice, given)),
            "engines": EngineChoice(**{**_of(EngineChoice, given), "device": cluster.kind}),
            "options": method_options(METHODS[name], given),
            "sigma": plain(given.get("sigma")),
            "data": path("data", given["data"]),
            "files": {slot: path(slot, given[slot]) for slot in slots() if given.get(slot) is not None},
            "output": Output.given(**_of(Output, given)),
            "cluster": cluster,
        }
        for part, value in parts.items():
            object.__setattr__(self, part, value)
        self._check()

    def changed(self, **given: Any) -> RunConfig:
        """The configuration with other arguments."""
        return RunConfig(**{**self.given, **given})

    def _check(self) -> None:
        """InputError where the parts do not go together."""
        method, stopping = self.method, self.stopping
        if self.sigma is not None:
            check_noise_level("sigma", self.sigma)
        if not stopping.smoothing:
            self._check_lipschitz()
        check_files(method, self.files)
        if stopping.smoothing:
            check_sigma(method, self.sigma)
        draws = max(stopping.n0, stopping.n)
        self.options.check_run(sigma=self.sigma, draws=draws, smoothing=stopping.smoothing)
        inputs: dict[str, Path | None] = {
            **{flag(slot): path for slot, path in self.files.items()},
            "--data": self.data,
        }
        inputs["--class-map"] = self.choice.class_map
        outputs = {"--out": self.output.out, "--tsv": self.output.tsv, "--key-file": self.output.key_file}
        check_outputs(outputs, inputs)

    def _check_lipschitz(self) -> None:
        stopping = self.stopping
        able = [name for name, method in METHODS.items() if stopping.certificate in method.certificates]
        if self.method.name not in able or not stopping.certifies:
            raise InputError(
                f"--certificate lipschitz is for certify --method {', '.join(able)} without --sift: nothing else has that bound"
            )
        if self.sigma is not None or stopping.sequential or stopping.family_wise:
            raise InputError(
                "--certificate lipschitz draws no noise: leave out --sigma, --radius, --tolerance, --family-wise"
            )

    def recorded(self) -> dict[str, Any]:
        """The part that decides the results, as JSON values: what a resumed run must agree with."""
        return {"method": self.method.name, **self.choice.recorded(), **self.stopping.recorded()}


def check_files(method: type[Method], files: Mapping[str, Path]) -> None:
    """InputError unless there is a file for each engine that the method needs, by its option, and no foreign one."""
    name, taken = method.name, method.slots
    foreign = [slot for slot in files if slot not in taken]
    if foreign:
        raise InputError(
            f"{flag(foreign[0])} is not used by --method {name}: --engine is the classifier itself"
            if len(taken) == 1 and foreign[0] == "classifier"
            else f"{flag(foreign[0])} is not used by --method {name}: leave it out"
        )
    missing = [option for option, slot in taken.items() if option not in files and not slot.optional]
    if missing:
        role = taken[missing[0]].role
        alone = ", or --method rs where --engine is the classifier itself" if missing == ["classifier"] else ""
        raise InputError(f"{flag(missing[0])} is needed by --method {name}: pass the {role}'s file{alone}")


def check_sigma(method: type[Method], sigma: float | None) -> None:
    """InputError where neither `sigma` nor an engine of the method says the noise level."""
    if sigma is None and not method.states_sigma():
        raise InputError(f"--sigma is needed by --method {method.name}: a classifier does not say its noise level")


def _of(part: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are fields of `part`."""
    return {field.name: given[field.name] for field in dataclasses.fields(part) if field.name in given}


def method_options(method: type[Method], given: Mapping[str, Any]) -> MethodOptions:
    """A method's options among the arguments `given`. InputError for those of other methods, unless they are at their default."""
    own = method.Options.names()
    for name, option in options().items():
        if name in given and name not in own and given[name] != option.default:
            METHODS[owners(name)[0]].Options(**{name: given[name]})  # what is wrong with it anyway comes first
            raise InputError(f"{flag(name)} is for --method {', '.join(owners(name))}, got {method.name}: leave it out")
    return method.Options(**{name: given[name] for name in own if name in given})
