"""Where the time of an export goes: the zoo's denoiser with its default verification, stage by stage, wall clock and CPU.

    python benchmarks/bench_export_time.py

Writes benchmarks/results/export_time.json. The target is 40 s on two quiet cores; on a machine that others use, CPU seconds over
the number of cores say what it would be there, at best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from diffsmooth_trt.stages import listening

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "export_time.json"


class Clock:
    """Seconds of each stage, without those of the stages inside of it."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.stages = ["everything else"]
        self.last = (time.perf_counter(), time.process_time())

    def _turn(self) -> None:
        now = (time.perf_counter(), time.process_time())
        self.wall[self.stages[-1]] += now[0] - self.last[0]
        self.cpu[self.stages[-1]] += now[1] - self.last[1]
        self.last = now

    def begin(self, what: str, total: int | None) -> None:
        self._turn()
        self.stages.append(what)

    def advance(self, parts: int) -> None:
        """Parts do not matter here."""

    def end(self) -> None:
        self._turn()
        self.stages.pop()

    def note(self, text: str) -> None:
        """What is said does not matter here."""

    def close(self) -> None:
        self._turn()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    clock = Clock()  # imports count
    from diffsmooth_trt.exporting import export_denoiser

    with tempfile.TemporaryDirectory() as folder, listening(clock):
        out = Path(folder) / "denoiser.onnx"
        report = export_denoiser("guided-diffusion", ROOT / "export" / "zoo" / "unet.pt", "zoo", 0.25, out)
    clock.close()
    stages = {name: (round(clock.wall[name], 1), round(clock.cpu[name], 1)) for name in clock.wall}
    seconds, cpu_seconds, load = sum(clock.wall.values()), sum(clock.cpu.values()), os.getloadavg()[0]
    found = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "stages": stages,
        "verification": report.verification,
        "load": round(load, 1),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "onnxscript", "onnxruntime", "openvino")},
    }
    for name, (wall, cpu) in sorted(stages.items(), key=lambda each: -each[1][0]):
        print(f"{wall:7.1f} s {cpu:7.1f} CPU s  {name}")
    print(f"{seconds:7.1f} s {cpu_seconds:7.1f} CPU s  in all, load {load:.1f}")
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
