"""How fast it is: the published shapes against the papers' loop and torch.compile, shares of the step, latency, larger batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checks import free_memory
from engines import COUPLED, build, file_of, measured, open_pair, session_device
from findings import Findings, Skipped, one_line
from networks import PAIRS, REHEARSED, Pair, pair_multiply_adds
from stages import BATCH, SMALL, Place
from stages import PAIRS as MEASURED
from torch_baseline import give_memory_back, set_switches
from turns import Contestant, in_turn, matmul, ours, papers, ratios, spread

from diffsmooth_trt.device import Device

__all__ = ["free_memory"]
ROOT = Path(__file__).resolve().parents[2]
TURNS = 5
# What the loop runs as: PyTorch's own defaults, and the same without TF32
EAGER = {"eager, TF32 as PyTorch has it": "fp32", "eager, TF32 off": "exact"}


class Table:
    """Where contestants of one pair and batch are made, and what they gave."""

    def __init__(self, found: Findings, place: Place, pair: str, batch: int) -> None:
        self.found, self.place = found, place
        self.pair: Pair = (REHEARSED if place.rehearse else PAIRS)[pair]
        self.batch = 2 if place.rehearse else batch
        self.where = torch.device("cpu" if place.rehearse else "cuda")
        self.least, self.turns = (0.001, 2) if place.rehearse else (0.4, TURNS)
        self.told: dict[str, Any] = {}

    def ours(self, device: Device, folder: Path | None = None) -> tuple[Contestant, Any]:
        """This package's engines of the pair; Skipped where one is missing."""
        engine, precision = ("onnxruntime", "fp32") if self.place.rehearse else ("inductor", "bf16")
        folder = self.place.folder if folder is None else folder
        for role in ("denoiser", *(("classifier",) if self.pair.classifier else ())):
            file = file_of(folder, self.pair, role, engine, precision, self.batch)
            if not file.exists():
                raise Skipped(f"{file.name} was not built: see builds.log")
        return ours(folder, self.pair, engine, precision, self.batch, device)

    def papers(self, kind: str, precision: str, mode: str = "none") -> Contestant:
        """The papers' loop."""
        return papers(self.pair, kind, precision, self.batch, "none" if self.place.rehearse else mode, self.where)

    def measure(self, contestants: dict[str, Contestant]) -> None:
        """Rates in turn, and ours over the others', put down after each turn."""

        def tell(rates: dict[str, list[float]]) -> None:
            self.told["rates"] = {name: spread(each) for name, each in rates.items()}
            if "ours" in rates:
                self.told["ratios"] = ratios(rates, "ours")
            self.put()

        in_turn(contestants, self.turns, self.least, tell)

    def put(self) -> None:
        """Write down what is known so far."""
        self.found.put(**{f"{self.pair.name} b{self.batch}": self.told})

    def median(self, name: str) -> float:
        """Samples a second."""
        return float(self.told["rates"][name]["median"])


def _figure(table: Table) -> str:
    """Rate, share of the matrix products' rate, and the ratios, in a few words."""
    parts = [f"{table.pair.name}: {table.median('ours'):.0f}/s"]
    if "of_bf16_matmul" in table.told:
        parts.append(f"{100 * table.told['of_bf16_matmul']:.1f} % of bf16 matmul")
    parts += [
        f"{each['median']:.2f} × {name}" for name, each in table.told.get("ratios", {}).items() if "matmul" not in name
    ]
    return ", ".join(parts)


def _all(found: Findings, place: Place, work: Callable[[Table, Device], str]) -> None:
    """`work` on each pair: a table and the device to a few words; what fails for one may go for the next."""
    device, figures = session_device(place.rehearse), []
    for name in MEASURED[-1:] if place.rehearse else MEASURED:
        try:
            figures.append(work(Table(found, place, name, BATCH), device))
        except Exception as error:  # out of memory, mostly
            traceback.print_exc()
            found.status = "failed"
            figures.append(f"{name}: {one_line(error)}")
        found.put(figure="; ".join(figures))
        give_memory_back()
        device.release()


def _speed(table: Table, device: Device) -> str:
    """Ours and the papers' loop in turn; the loop alone where ours is missing."""
    table.told["multiply_adds"] = pair_multiply_adds(table.pair)
    contestants, method, missing = {}, None, ""
    try:
        contestants["ours"], method = table.ours(device)
    except Exception as error:
        table.found.status = "failed"
        missing = one_line(error)
        table.found.put(why=f"{table.pair.name}: {missing}")
    contestants["bf16 matmul, TFLOP/s"] = matmul(table.place.rehearse)
    contestants |= {label: table.papers("eager", precision) for label, precision in EAGER.items()}
    table.measure(contestants)
    if method is None:
        rates = ", ".join(f"{table.median(label):.0f}/s {label}" for label in EAGER)
        return f"{table.pair.name}: ours is missing, {rates}"
    tflops = 2 * table.told["multiply_adds"] * table.median("ours") / 1e12
    table.told |= {"tflops": tflops, "of_bf16_matmul": tflops / table.median("bf16 matmul, TFLOP/s")}
    table.told["rows_independent"] = all(each.identity["probe"] != COUPLED for each in method.engines.values())
    table.put()
    method.close()
    return _figure(table)


def speed(found: Findings, place: Place) -> None:
    """Samples a second of both pairs: ours and the papers' loop as their code runs it."""
    _all(found, place, _speed)


def _compiled(table: Table, device: Device) -> str:
    contestant, method = table.ours(device)
    table.measure({"ours": contestant, "torch.compile, bf16": table.papers("compile", "bf16", "reduce-overhead")})
    method.close()
    return _figure(table)


def compiled(found: Findings, place: Place) -> None:
    """Ours and the loop under torch.compile at the same precision and batch, in turn."""
    _all(found, place, _compiled)


def shares(found: Findings, place: Place) -> None:
    """Of the GPU's work in a step: noise and votes; of its time: none."""
    device, figures, kernels = session_device(place.rehearse), [], {}
    for name in MEASURED:
        table = Table(found, place, name, BATCH)
        method = table.ours(device)[1]
        set_switches("ours", "bf16")
        told = measured(method, 0.05 if place.rehearse else 3.0)
        kernels[name] = told.pop("kernels", {})
        found.put(**{f"{table.pair.name} b{table.batch}": told})
        method.close()
        device.release()
        own, idle = told.get("own_kernels_share"), told.get("idle_share")
        unseen = f"{name}: {told.get('profile', 'not profiled')}"
        figures.append(unseen if own is None or idle is None else f"{name}: own {own:.2%}, idle {idle:.2%}")
        found.put(figure="; ".join(figures))
        document = json.dumps({"seconds a batch, by kernel": kernels}, indent=1)
        (place.out / "profile.json").write_text(document + "\n")
    if any("own" not in each for each in figures) and not place.rehearse:
        found.status = "failed"
        found.put(why="the profiler saw no kernels")


def latency(found: Findings, place: Place) -> None:
    """Milliseconds of one small batch, ours and the papers' loop in turn."""
    device, said = session_device(place.rehearse), []
    for batch in SMALL[:1] if place.rehearse else SMALL:
        table, method = Table(found, place, "unet", batch), None
        contestants = {label: table.papers("eager", precision) for label, precision in list(EAGER.items())[:1]}
        try:
            contestant, method = table.ours(device)
            contestants = {"ours": contestant, **contestants}
            times: dict[str, list[float]] = {name: [] for name in contestants}
            for turn in range(4 if place.rehearse else 40):
                for name, each in contestants.items():
                    seconds = each.seconds(1)
                    if turn >= 3:
                        times[name].append(1000 * seconds)
            table.told["milliseconds"] = {name: spread(each) for name, each in times.items()}
            table.put()
            said.append(f"{batch}: {table.told['milliseconds']['ours']['median']:.2f} ms")
            found.put(figure="batch " + ", ".join(said))
        except Exception as error:
            found.status = "failed"
            found.put(why=f"batch {batch}: {one_line(error)}")
        finally:
            if method is not None:
                method.close()
            device.release()


def larger(found: Findings, place: Place) -> None:
    """A batch of 4096; then kernels that timing chose, at the usual batch."""
    device, figures = session_device(place.rehearse), []
    wanted = [(place.folder, 4096, "batch 4096"), (place.folder / "measured", BATCH, "measured kernels")]
    for folder, batch, what in wanted[:1] if place.rehearse else wanted:
        try:
            table = Table(found, place, "unet", batch)
            if folder != place.folder:
                folder.mkdir(exist_ok=True)
                kind = ("onnxruntime", "fp32") if place.rehearse else ("inductor", "bf16")
                out = file_of(folder, table.pair, "denoiser", *kind, table.batch)
                build(table.pair, "denoiser", *kind, table.batch, out, True)
            contestant, method = table.ours(device, folder)
            found_rates = in_turn(
                {"ours": contestant, "matmul": matmul(place.rehearse)}, 2 if place.rehearse else TURNS, table.least
            )
            tflops = 2 * pair_multiply_adds(table.pair) * spread(found_rates["ours"])["median"] / 1e12
            share = tflops / spread(found_rates["matmul"])["median"]
            found.put(**{what: {"rate": spread(found_rates["ours"]), "of_bf16_matmul": share}})
            figures.append(f"{what}: {spread(found_rates['ours'])['median']:.0f}/s, {share:.1%} of bf16 matmul")
            found.put(figure="; ".join(figures))
            method.close()
        except Exception as error:
            found.status = "failed"
            found.put(why=f"{what}: {one_line(error)}")
        device.release()
        give_memory_back()


def onnxruntime(found: Findings, place: Place) -> None:
    """The UNet in ONNX Runtime's CUDA provider, from a wheel that came in parts, in a process that has loaded no other."""
    if place.rehearse:
        return in_onnxruntime(str(found.path), str(place.folder), True)
    import wheel_parts

    from diffsmooth_trt.device.nvidia import find_gpu

    site = wheel_parts.install(ROOT / "build", place.folder, find_gpu(0).compute_capability)
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    command = "import sys; from speeds import in_onnxruntime; in_onnxruntime(*sys.argv[1:], False)"
    arguments = [sys.executable, "-c", command, str(found.path), str(place.folder)]
    done = subprocess.run(
        arguments, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True, check=False
    )
    print(done.stderr)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return None


def in_onnxruntime(events: str, folder: str, rehearse: bool) -> None:
    """Measure with the ONNX Runtime that this process imports."""
    found, pair = Findings(Path(events)), (REHEARSED if rehearse else PAIRS)["unet"]
    precision, batch = ("fp32", 2) if rehearse else ("fp16", BATCH)
    out = file_of(Path(folder), pair, "denoiser", "onnxruntime", precision, batch)
    build(pair, "denoiser", "onnxruntime", precision, batch, out, False)
    method = open_pair(Path(folder), pair, "onnxruntime", precision, batch, session_device(rehearse))
    told = measured(method, 0.05 if rehearse else 3.0)
    told.pop("kernels", None)
    found.put(unet=told, figure=f"unet {precision}: {told['samples_per_second']:.0f}/s")
    method.close()
