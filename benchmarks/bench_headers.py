"""How long a run looks at its images before it draws, and how much memory that takes: headers of CIFAR and ImageNet-sized images.

    python benchmarks/bench_headers.py [--images 50000] [--folder DIR]

Writes results/headers.json. CIFAR: PNG in one parquet file, the zoo's 100 images, each time with 2,000 random bytes behind it, so
that nothing repeats; in groups of 1,000 rows, and all rows in one group as pandas writes them. ImageNet size: a folder of 1000
classes of JPEG files of 500×375, 500 different ones under as many names as images (hard links), read once before: a warm disk. Each
measurement is a process of its own: opening, class of each label, headers; a tenth of the images shows how memory grows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_noise import cpu_model
from PIL import Image

from diffsmooth_trt import zoo
from diffsmooth_trt.datasets import Classes
from diffsmooth_trt.images import Images

ROOT = Path(__file__).resolve().parent
CLASSES, FILES = 1000, 500


def cifar(path: Path, images: int, group: int) -> None:
    """A parquet file of so many CIFAR images, `group` of them in a group of rows."""
    rng = np.random.default_rng(0)
    cells = [cell["bytes"] for cell in pq.read_table(zoo.IMAGES).column(0).to_pylist()]
    longer = [{"bytes": cells[row % len(cells)] + rng.bytes(2000), "path": None} for row in range(images)]
    pq.write_table(pa.table({"img": longer, "label": np.arange(images) % 10}), path, row_group_size=group)


def imagenet(folder: Path, images: int) -> None:
    """A folder of so many JPEG files of ImageNet's usual size."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(CLASSES):
        (folder / f"n{k:08d}").mkdir()
    for number in range(images):
        file = folder / f"n{number % CLASSES:08d}" / f"{number:08d}.JPEG"
        if number >= FILES:
            first = number % FILES
            os.link(folder / f"n{first % CLASSES:08d}" / f"{first:08d}.JPEG", file)
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)).resize((500, 375))
        out = io.BytesIO()
        coarse.save(out, "JPEG", quality=90)
        file.write_bytes(out.getvalue())


def peak_kib() -> int:
    """The most memory that this process had at once."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def measured(path: Path, classes: int, resized: bool) -> dict[str, Any]:
    """Seconds and peak memory of what a run does with its images before it draws."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of imports
    before = peak_kib()
    start = time.perf_counter()
    images = Images(path, resize=256, crop=224) if resized else Images(path)
    images.match(Classes(classes))
    assert all(0 <= label < classes for label in images.labels())
    opened = time.perf_counter()
    side = 224 if resized else 32
    found = images.check((side, side, 3))
    done = time.perf_counter()
    assert found.images == len(images) and not images.skipped
    return {
        "images": found.images,
        "open": opened - start,
        "headers": done - opened,
        "added_mib": (peak_kib() - before) / 1024,
    }


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--images", type=int, default=50_000)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--folder", type=Path, help="where to make the data (default: a temporary folder)")
    p.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.measure:
        path, classes, resized = a.measure
        print(json.dumps(measured(Path(path), int(classes), resized == "True")))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for share in (10, 1):
            count = a.images // share
            cifar(Path(folder, f"cifar-{count}.parquet"), count, 1000)
            cifar(Path(folder, f"group-{count}.parquet"), count, count)
            imagenet(Path(folder, f"imagenet-{count}"), count)
            names = {f"cifar-{count}.parquet": 10, f"group-{count}.parquet": 10, f"imagenet-{count}": CLASSES}
            for name, classes in names.items():
                command = [
                    sys.executable,
                    __file__,
                    "--measure",
                    str(Path(folder, name)),
                    str(classes),
                    str(classes == CLASSES),
                ]
                runs = [json.loads(subprocess.check_output(command)) for _ in range(a.rounds + 1)][1:]
                found.setdefault(name.partition("-")[0], []).append(
                    {
                        "images": count,
                        **{
                            part: {"median": statistics.median(values), "min": min(values), "max": max(values)}
                            for part in ("open", "headers", "added_mib")
                            for values in [[run[part] for run in runs]]
                        },
                    }
                )
                print(name, found[name.partition("-")[0]][-1], flush=True)
    machine = {"cpu": cpu_model(), "processors": os.cpu_count(), "python": platform.python_version()}
    machine |= {name: version(name) for name in ("pillow", "pyarrow")}
    document = {"machine": machine, "rounds": a.rounds, "results": found}
    (ROOT / "results" / "headers.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
