"""Engine files of a session, each made in a process of its own, and the CPU's votes that a GPU's are compared with."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from findings import Findings, Skipped
from stages import Place

from diffsmooth_trt import zoo
from diffsmooth_trt.api import certify, verify
from diffsmooth_trt.device import CPU
from diffsmooth_trt.noise import NOISE_VERSION
from diffsmooth_trt.runs import engines
from diffsmooth_trt.runs.store import open_run

ROOT = Path(__file__).resolve().parents[2]
IMAGES, N, N0, ZOO_BATCH = 20, 1000, 100, 500
CLASSIFIERS = {"dds": zoo.CLASSIFIER_DDS, "diffsmooth": zoo.CLASSIFIER_DIFFSMOOTH}


def build(found: Findings, place: Place, kind: str, *about: str) -> None:
    """Make one thing: zoo:ROLE, votes:METHOD, package:PAIR:ROLE:PRECISION:BATCH or compiled:PAIR:PRECISION:BATCH."""
    start = time.perf_counter()
    if kind == "zoo":
        _zoo(place, *about)
    elif kind == "votes":
        votes(about[0], place.folder, rehearse=place.rehearse)
    elif kind == "package":
        _package(place, *about)
    else:
        _compiled(place, *about)
    found.put(made_in_seconds=time.perf_counter() - start)


def zoo_package(folder: Path, role: str) -> Path:
    """Where the zoo's network is as a package."""
    return folder / f"zoo-{role}-b{ZOO_BATCH}.pt2"


def _stale(path: Path) -> bool:
    """Whether a package is missing, or was compiled for another machine, and is to be made again."""
    from diffsmooth_trt.engine.backends.aotinductor import this_machine
    from diffsmooth_trt.engine.record import read_record

    if not path.exists():
        return True
    here, built = this_machine("cuda:0"), read_record(path, "pt2").machine
    return any(built.get(name) != value for name, value in here.items())


def _zoo(place: Place, role: str) -> None:
    """The zoo's checkpoints as fp32 packages; a rehearsal runs its ONNX files."""
    out = zoo_package(place.folder, role)
    if place.rehearse or not _stale(out):
        return
    states, fixed = (
        ROOT / "export" / "zoo",
        ["--batch", str(ZOO_BATCH), "--device", "cuda:0", "--no-autotune", "--out", str(out)],
    )
    fixed += ["--verify-samples", "64"]
    if role == "denoiser":
        what = [
            "--family",
            "guided-diffusion",
            "--config",
            "zoo",
            "--checkpoint",
            str(states / "unet.pt"),
            "--sigma",
            "0.25",
        ]
    else:
        what = ["--arch", "resnet56", "--checkpoint", str(states / f"classifier-{role}.pt")]
    command = "import sys; from diffsmooth_trt.cli import main; sys.exit(main())"
    kind = "denoiser" if role == "denoiser" else "classifier"
    done = subprocess.run(
        [sys.executable, "-c", command, "export", kind, *what, *fixed],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"export ended with {done.returncode}"])[-1])


def _package(place: Place, pair: str, role: str, precision: str, batch: str) -> None:
    from engines import build as build_engine
    from engines import file_of
    from networks import PAIRS, REHEARSED

    if place.rehearse:
        about = (REHEARSED[pair], role, "onnxruntime", "fp32", 2)
    else:
        about = (PAIRS[pair], role, "inductor", precision, int(batch))
    known, role, engine, precision, rows = about
    out = file_of(place.folder, known, role, engine, precision, rows)
    if engine == "inductor" and out.exists() and _stale(out):
        out.unlink()
    build_engine(known, role, engine, precision, rows, out, False)


def _compiled(place: Place, pair: str, precision: str, batch: str) -> None:
    """torch.compile's own cache, so that the stage that times it compiles nothing."""
    from networks import PAIRS
    from turns import papers

    if place.rehearse:
        raise Skipped("a rehearsal compiles nothing")
    import torch

    papers(PAIRS[pair], "compile", precision, int(batch), "reduce-overhead", torch.device("cuda")).run(2)


def _options(method: str, rehearse: bool) -> dict[str, Any]:
    images, n, n0 = (1, 12, 4) if rehearse else (IMAGES, N, N0)
    return {"method": method, "data": zoo.IMAGES, "max": images, "n": n, "n0": n0, "sigma": 0.25}


def votes(method: str, folder: Path, *, rehearse: bool) -> Path:
    """The CPU's run of the zoo in `folder`, made where neither it nor a prepared one is there.

    Its name says what it depends on: another noise, network or size is another run.
    """
    files = [zoo.DENOISER, CLASSIFIERS[method]]
    options = _options(method, rehearse)
    about: list[Any] = [NOISE_VERSION, {name: value for name, value in options.items() if name != "data"}]
    about += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    name = f"votes-{method}-{hashlib.sha256(repr(about).encode()).hexdigest()[:12]}.sqlite"
    for known in (folder / name, ROOT / "build" / "gpu-prepared" / name):
        with contextlib.suppress(Exception):
            with open_run(known) as run:
                if run.finished() == run.meta["images"]:
                    return known
    out = folder / name
    out.unlink(missing_ok=True)
    options |= {"engine": files[0], "classifier": files[1], "batch": 8 if rehearse else 100}
    with certify(out=out, device="cpu", backend="onnxruntime", precision="fp32", **options):
        return out


def compare_with_cpu(method: str, place: Place) -> dict[str, Any]:
    """The zoo's run on the device with the key of the CPU's; the largest difference of a count, as a share of n."""
    packages = {"engine": zoo_package(place.folder, "denoiser"), "classifier": zoo_package(place.folder, method)}
    for path in packages.values():
        if not place.rehearse and not path.exists():
            raise Skipped(f"{path.name} was not built: see builds.log")
    reference = votes(method, place.folder, rehearse=place.rehearse)
    out = place.folder / f"gpu-{method}.sqlite"
    out.unlink(missing_ok=True)
    options = _options(method, place.rehearse)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if place.rehearse:
            from engines import session_device

            device = session_device(True)
            opened = {"cuda:0": device, "cpu": CPU}
            stack.enter_context(mock.patch.object(engines, "open_device", opened.__getitem__))
            files: dict[str, Any] = {"engine": zoo.DENOISER, "classifier": CLASSIFIERS[method]}
            files |= {"batch": 8, "backend": "onnxruntime"}
        else:
            files = {**packages, "batch": ZOO_BATCH}
        cpu = stack.enter_context(open_run(reference))
        gpu = stack.enter_context(certify(**files, out=out, device="cuda:0", key=cpu.meta["key"], **options))
        seconds = time.perf_counter() - start
        differences = []
        for image in range(options["max"]):
            counts = [run.counts(image) for run in (gpu, cpu)]
            for phase in sorted(counts[1]):
                differences.append(int(np.abs(np.subtract(counts[0][phase], counts[1][phase])).max()))
    drawn = options["max"] * (options["n"] + options["n0"])
    told = {
        "images": options["max"],
        "n": options["n"],
        "largest_difference": max(differences) / options["n"],
        "largest_difference_votes": max(differences),
        "images_that_differ": sum(each > 0 for each in differences),
        "seconds": seconds,
        "samples_per_second": drawn / seconds,
    }
    if not place.rehearse:
        told["verify_agrees"] = bool(verify(out, fraction=0.05).agrees)
    return told
