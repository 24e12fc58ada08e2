"""Workers as Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..certify.batch import Span
from ..device import device_number
from ..device.several import only_visible, present_devices
from ..engine.choice import EngineChoice
from ..errors import DiffsmoothError, EngineError, InputError, OutOfMemory, message_of
from ..noise import Key
from ..runs.config import LOCAL, Cluster
from ..runs.identity import differences
from .files import EngineFiles
from .steps import Lost
from .worker import Drawn, Job, Opened

NAMESPACE = "diffsmooth-trt"
GROW_SECONDS = 10.0
START_SECONDS = 300.0
NO_MEMORY = "Unable to allocate"  # what NumPy and msgpack say
NEVER = "never ran"  # what Ray says of a worker that it could not start
MODE = "RAY_AUTH_MODE"
ANSWER_SECONDS, TRIES = 10.0, "RAY_gcs_server_port_wait_time_s"
NO_MODULE = "No module named"
# Bytes of a picture from which on it is sent once, and not with each batch: Ray takes 100 KiB with a message. So many are kept.
LARGE, PICTURES = 32 * 1024, 64
NONE = np.empty(0, np.uint8)
TOLD_SECONDS = 2.0  # a worker that stands still is not waited for


def library() -> Any:
    """The module ray; InputError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed: pip install 'diffsmooth-trt[ray]'") from None
    return ray


def worker_engines(engines: EngineChoice) -> EngineChoice:
    """How a worker runs its engines: on a CPU by one thread unless more are asked for, as there may be a worker a core."""
    return replace(engines, threads=1) if engines.device == "cpu" and engines.threads is None else engines


@dataclass(frozen=True)
class Machine:
    """What a Ray of our own has of this machine: its named `devices` (none: what Ray finds), and room for `workers` (None: as many
    as fit) of `threads` CPU threads each.
    """

    devices: tuple[str, ...] = ()
    workers: int | None = None
    threads: int = 1

    @classmethod
    def of(cls, cluster: Cluster, threads: int | None) -> Machine:
        """The machine that a run asks for. Raises InputError where a GPU of its list is not there."""
        devices = present_devices(cluster.devices)
        return cls(devices, len(devices) or cluster.workers, threads or 1)

    @property
    def gpus(self) -> bool:
        """Whether GPUs are named."""
        return any(device != "cpu" for device in self.devices)

    def resources(self) -> dict[str, int]:
        """What Ray is told to have; nothing where it may look itself."""
        if self.gpus:
            return {"num_gpus": len(self.devices)}
        room = (self.workers or 0) * self.threads
        return {"num_cpus": max(room, os.cpu_count() or 1)} if room else {}


def check_answers(address: str) -> None:
    """InputError unless something answers at the address of a cluster, HOST:PORT or ray://HOST:PORT: Ray tries for ten minutes."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(
            f"--ray takes local, auto, HOST:PORT or ray://HOST:PORT, got {address!r}: give --ray local for this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        why = error.strerror or error
        raise InputError(
            f"--ray {address}: nothing answers there ({why}): start a cluster by `ray start --head`, which says its address, or "
            "use --ray local"
        ) from None


@contextlib.contextmanager
def tried_once() -> Iterator[None]:
    """Let Ray try an address once, unless the user says how often: it tries twenty times, of half a minute each."""
    given = os.environ.get(TRIES)
    os.environ[TRIES] = given or "1"
    try:
        yield
    finally:
        del os.environ[TRIES]
        os.environ.update({} if given is None else {TRIES: given})


@contextlib.contextmanager
def unheard(ray: Any) -> Iterator[None]:
    """Keep Ray from printing pages on lost processes to standard output, which is the command's: the run notes them."""
    name, worker = "print_to_stdstream", getattr(getattr(ray, "_private", None), "worker", None)
    told = getattr(worker, name, None)
    if told is not None:
        setattr(worker, name, lambda *said, **how: None)
    try:
        yield
    finally:
        if told is not None:
            setattr(worker, name, told)


@contextlib.contextmanager
def connected(address: str, machine: Machine | None = None) -> Iterator[Any]:
    """The module ray, connected to `address` or to a Ray of its own on this machine. InputError where there is none."""
    ray, machine = library(), machine or Machine()
    if ray.is_initialized():
        if machine.gpus:
            named = ",".join(machine.devices)
            raise InputError(
                f"--device {named} needs a Ray of its own, this process has another: call ray.shutdown() first"
            )
        yield ray  # the user's own connection
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": NAMESPACE}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL:
            with only_visible(machine.devices):
                # Without an address Ray would take a cluster that runs here, whoever started it.
                ray.init(address="local", include_dashboard=False, **machine.resources(), **options)
        else:
            check_answers(address)
            with tried_once(), warnings.catch_warnings(action="ignore"):
                ray.init(address=address, **options)
    except InputError:
        raise
    except Exception as error:  # Ray raises many kinds: no such address, another version of Ray or Python, …
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"--ray {address}: cannot connect ({said}): start one by `ray start --head` with Ray {version('ray')}, "
            f"{_token_remedy(said)}or use --ray local"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
    try:
        with unheard(ray), warnings.catch_warnings():
            # Of the size of messages, which are what a batch needs.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.util\.client")
            yield ray
    finally:
        ray.shutdown()


def _token_remedy(said: str) -> str:
    """What helps where a cluster asks for a token: Ray does not say that this is why it cannot connect."""
    if "mismatch" in said.lower():
        return ""
    if os.environ.get(MODE, "").lower() == "token":
        return "give its token as RAY_AUTH_TOKEN if it has another, "
    return f"set {MODE}=token if it asks for a token, "


class Pictures:
    """Large pictures, each put into the object store once for the many batches that draw from it: most of what they cost else.

    A picture with less than half of a batch's rows goes with the batch: an audit's rows are of many, and none of them comes again.
    """

    def __init__(self, put: Callable[[Any], Any]) -> None:
        self.put = put
        self.kept: dict[
            int, tuple[Any, Any]
        ] = {}  # by id: the picture, so that the id stays its own, and its reference

    def apart(self, spans: Sequence[Span]) -> tuple[list[Span], list[Any]]:
        """Spans whose large pictures are left out, and references to those, in order; see `with_pictures`."""
        light, pictures = [], []
        for span in spans:
            if span.pixels.nbytes >= LARGE and 2 * (span.high - span.low) >= spans[-1].high:
                pictures.append(self._of(span.pixels))
                span = replace(span, pixels=NONE)
            light.append(span)
        return light, pictures

    def _of(self, pixels: NDArray[np.uint8]) -> Any:
        kept = self.kept.pop(id(pixels), None) or (pixels, self.put(pixels))
        self.kept[id(pixels)] = kept
        if len(self.kept) > PICTURES:
            del self.kept[next(iter(self.kept))]
        return kept[1]


def with_pictures(spans: Sequence[Span], pictures: Sequence[NDArray[np.uint8]]) -> list[Span]:
    """The spans that `Pictures.apart` took apart, whole again."""
    given = iter(pictures)
    return [span if span.pixels.size else replace(span, pixels=next(given)) for span in spans]


class RayPool:
    """Actors that hold what `setup` opens, `count` of them or as many as the cluster has room for; those that die are replaced.

    All have one classifier id, `facts.classifier`: an actor with another one is refused with what differs. Engine files are put
    into the object store once. Use as a context manager.
    """

    def __init__(self, ray: Any, setup: Job, count: int | None) -> None:
        self.ray, self.setup, self.count = ray, setup, count
        cuda = device_number(setup.device) is not None
        self.needs = {"num_gpus": 1} if cuda else {"num_cpus": setup.threads or 1}
        self.store = {sha: ray.put(content) for sha, content in _contents(setup.files.values())}
        self.actors: dict[int, Any] = {}
        self.opening: dict[int, tuple[Any, Any]] = {}  # actor and its facts to come
        self.pending: dict[Any, tuple[int, int]] = {}  # answers to come: worker, ticket
        self.pictures = Pictures(ray.put)
        self.numbers, self.grown = 0, 0.0
        self.key: Key | None = None
        self.notes: list[str] = []
        self.facts = self._first()

    def room(self) -> int:
        """How many workers the cluster has room for."""
        if self.count is not None:
            return self.count
        ((name, each),) = self.needs.items()
        total = self.ray.cluster_resources().get(name.removeprefix("num_").upper()[:-1], 0)
        return max(1, int(total // each))

    def _start(self) -> None:
        """Start actors up to the number that there is room for."""
        ray, setup = self.ray, self.setup

        class Actor:
            """A worker behind Ray. It opens its engines when it is asked for facts: what fails there is told as it is."""

            worker: Opened
            key: Key | None = None  # until the first draw: nobody waits for what fails before
            failed: Exception | None = None

            def facts(self, setup: Job, store: dict[str, Any]) -> Any:
                self.worker = setup.open(lambda sha: ray.get(store[sha]))
                return self.worker.facts()

            def begin(self, key: Key) -> None:
                self.key = key

            def draw(self, spans: Sequence[Span], *pictures: NDArray[np.uint8]) -> Drawn:
                if self.failed is not None:
                    raise self.failed  # what waits here is not to be drawn by half a step
                try:
                    if self.key is not None:
                        self.worker.begin(self.key)
                        self.key = None
                    return self.worker.draw(with_pictures(spans, pictures))
                except Exception as error:
                    self.failed = error
                    raise

            def told(self) -> Any:
                return self.worker.told()

        made = ray.remote(Actor).options(**self.needs, max_restarts=0)
        if "num_gpus" in self.needs:
            setup = setup.on("cuda:0")  # Ray shows each actor its own
        while len(self.actors) + len(self.opening) < self.room():
            self.numbers += 1
            actor = made.remote()
            self.opening[self.numbers] = (actor, actor.facts.remote(setup, self.store))
        self.grown = time.monotonic()

    def _first(self) -> Any:
        """The facts of the first actor that is ready. Raises what its engines raised."""
        self._start()
        refs = {facts: number for number, (_, facts) in self.opening.items()}
        done, _ = self.ray.wait(list(refs), num_returns=1, timeout=START_SECONDS)
        if not done:
            raise EngineError(f"no worker was ready after {START_SECONDS:.0f} s: the cluster has no room for one")
        number = refs[done[0]]
        actor, ref = self.opening.pop(number)
        answer = self._got(ref)
        if isinstance(answer, Lost):
            raise EngineError(self._no_first(answer))
        self.actors[number] = actor
        return answer

    @staticmethod
    def _no_first(lost: Lost) -> str:
        """What is said of a first worker that is lost."""
        if NEVER in lost.why and os.environ.get(MODE, "").lower() == "token":
            return f"no worker could be started ({lost.why}): set {MODE}=disabled if the cluster asks for no token"
        why = f"ran out of memory ({lost.short})" if lost.short else f"died ({lost.why})"
        return f"the first worker {why} while it opened its engines: see Ray's logs; give fewer --workers, or a smaller --batch"

    def _got(self, ref: Any) -> Any:
        """The value of a reference that is done; Lost where its actor is gone or out of memory. Raises what else it raised."""
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except exceptions.RayTaskError as error:
            cause, said = error.cause, " ".join(message_of(error.cause).split())[:300]
            if isinstance(cause, MemoryError | OutOfMemory):
                return Lost(said or "a MemoryError")
            if isinstance(cause, exceptions.RaySystemError) and NO_MEMORY in said:
                return Lost(NO_MEMORY)  # before it came to what it was asked for
            if isinstance(cause, ImportError) or NO_MODULE in said:
                raise InputError(
                    f"a worker lacks a package ({said}): install on its machine what this one has, in the same versions"
                ) from None
            raise (cause if isinstance(cause, DiffsmoothError) else EngineError(f"a worker failed ({said})")) from None
        except exceptions.OutOfMemoryError:
            return Lost("Ray ended it, its machine's memory was nearly full")
        except exceptions.LocalRayletDiedError:
            raise EngineError(
                "Ray's own process on this machine is gone: start Ray again, and go on with --resume"
            ) from None
        except exceptions.RayError as error:  # its process or its machine is gone, or cannot be reached
            return Lost(why=str(error).strip().rpartition("\n")[2][:300])

    def begin(self, key: Key) -> None:
        """Draw under `key` from now on."""
        self.key = key
        for actor in self.actors.values():
            actor.begin.remote(key)

    def workers(self) -> Sequence[int]:
        """Those that are ready. Actors that joined since are taken in, and lost ones replaced, from time to time.

        Where none is left, those that are opening are waited for.
        """
        if time.monotonic() - self.grown > GROW_SECONDS:
            self._start()
        self._take_ready(0.0)
        until = time.monotonic() + START_SECONDS
        while not self.actors and self.opening and time.monotonic() < until:
            self._take_ready(1.0)
        return list(self.actors)

    def _take_ready(self, seconds: float) -> None:
        """Take in the actors that are ready within `seconds`."""
        numbers = {ref: number for number, (_, ref) in self.opening.items()}
        if not numbers:
            return
        done, _ = self.ray.wait(list(numbers), num_returns=1, timeout=seconds)
        if done:
            done, _ = self.ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
        for ref in done:
            actor, _ = self.opening.pop(numbers[ref])
            self._take(numbers[ref], actor, self._got(ref))

    def _take(self, number: int, actor: Any, facts: Any) -> None:
        """Take an actor in that became ready. InputError where it is another classifier."""
        if isinstance(facts, Lost):
            self._end(actor)
            return
        if facts.classifier.id != self.facts.classifier.id:
            differing = differences(
                self.facts.classifier.parts, facts.classifier.parts, words=("first worker", "another")
            )
            raise InputError(
                f"the workers are different classifiers: {'; '.join(differing[:3])}; run on machines of one kind, with the same "
                "versions"
            )
        if self.key is not None:
            actor.begin.remote(self.key)
        self.actors[number] = actor

    def send(self, worker: int, ticket: int, spans: Sequence[Span]) -> None:
        """Ask a worker for a batch."""
        light, pictures = self.pictures.apart(spans)
        self.pending[self.actors[worker].draw.remote(light, *pictures)] = (worker, ticket)

    def receive(self, seconds: float) -> Sequence[tuple[int, int, Drawn | Lost]]:
        """All answers that are there; where there is none yet, the first within `seconds`."""
        waiting = list(self.pending)
        done, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        if waiting and not done and seconds:
            done, _ = self.ray.wait(waiting, num_returns=1, timeout=seconds)
        answers = []
        for ref in done:
            worker, ticket = self.pending.pop(ref)
            answer = self._got(ref)
            if isinstance(answer, Lost):
                self._lose(worker, answer)
            answers.append((worker, ticket, answer))
        return answers

    def _lose(self, worker: int, lost: Lost) -> None:
        """Let a worker go that is lost, or that ran out of memory; another may take its place at once."""
        actor = self.actors.pop(worker, None)
        if actor is None:
            return
        why = "ran out of memory" if lost.short else "was lost"
        self.notes.append(f"a worker {why}; what it had was drawn by others")
        self._end(actor)
        self.grown = 0.0

    def told(self) -> tuple[list[str], tuple[int, int]]:
        """What workers note of their votes, and what those took, as far as they answer."""
        notes, votes, evaluations = list(dict.fromkeys(self.notes)), 0, 0
        asked = [actor.told.remote() for actor in self.actors.values()]
        done, _ = self.ray.wait(asked, num_returns=len(asked), timeout=TOLD_SECONDS) if asked else ([], [])
        for ref in done:
            answer = self._got(ref)
            if not isinstance(answer, Lost):
                notes += answer[0]
                votes, evaluations = votes + answer[1][0], evaluations + answer[1][1]
        return notes, (votes, evaluations)

    def _end(self, actor: Any) -> None:
        """End an actor's process: one that is short of memory, or cannot be reached, would keep its place on the cluster."""
        with contextlib.suppress(Exception):
            self.ray.kill(actor)

    def close(self) -> None:
        """Let all actors go."""
        for actor in (*self.actors.values(), *(actor for actor, _ in self.opening.values())):
            self._end(actor)
        self.actors, self.opening = {}, {}

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _contents(files: Any) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for each in files:
        assert isinstance(each, EngineFiles)
        for name, sha in each.parts.items():
            if sha not in seen:
                seen.add(sha)
                yield sha, (Path(each.folder) / name).read_bytes()
