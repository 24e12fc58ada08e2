"""From a clone to a certificate of one's own folder with one's own checkpoint: README.md's commands, read there and timed.

    python benchmarks/bench_first_run.py [--checkpoint resnet18.pt --classes N]

The commands run in a fresh clone of this repository's last commit, which has to have all that is to be tried, with nothing of the
environment that runs this script but pip's settings. `photos/` gets the zoo's images as JPEG files of several sizes, in a folder a
class. Without --checkpoint, `resnet18.pt` is the state dict of ResNet-18 under torchvision's names with random weights, wrapped in
DataParallel: the time does not depend on the weights. Writes benchmarks/results/first_run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.nets.classifiers import classifier_from_arch

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "first_run.json"
HEADING = "## Your own classifier and images"
CLASSES, EACH = 4, 5
MARK = "== "  # in front of what says that a command begins


def commands() -> list[str]:
    """The lines of README.md's block, those that a backslash continues as one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(HEADING)[2]
    (block, *_) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for line in re.sub(r" *\\\n *", " ", block).splitlines() if line]


def photos(folder: Path, classes: int) -> int:
    """Make the images, `EACH` of each class; returns how many there are."""
    rng = np.random.default_rng(0)
    images = list(dst.open_images(zoo.IMAGES))
    for number in range(classes):
        (folder / f"class-{number}").mkdir(parents=True)
        for each in range(EACH):
            size = tuple(rng.integers(240, 400, 2).tolist())
            picture = Image.fromarray(images[number * EACH + each].pixels).resize(size, Image.Resampling.BICUBIC)
            picture.save(folder / f"class-{number}" / f"{each}.jpg", quality=90)
    return classes * EACH


def timed(folder: Path, lines: list[str]) -> list[float]:
    """Seconds of each command, run one after the other in one shell as a user types them."""
    script = "\n".join(
        ["set -e", *(f"echo '{MARK}'$(date +%s.%N)\n{line}" for line in lines), f"echo '{MARK}'$(date +%s.%N)"]
    )
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        *(name for name in os.environ if name.startswith(("PIP_", "SSL_", "REQUESTS_"))),
    )
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PATH"] = os.pathsep.join(p for p in environment["PATH"].split(os.pathsep) if ".venv" not in p)
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode:
        raise SystemExit(f"a command failed with status {done.returncode}")
    times = [float(mark) for mark in re.findall(rf"^{MARK}([\d.]+)$", done.stdout, re.MULTILINE)]
    return np.diff(times).tolist()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--classes", type=int, default=CLASSES)
    a = p.parse_args()
    lines = commands()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "diffsmooth-trt"
        start = time.perf_counter()
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", str(ROOT), str(folder)], check=True
        )
        cloned = time.perf_counter() - start
        images, what = photos(folder / "photos", a.classes), "a ResNet-18 of torchvision"
        if a.checkpoint:
            shutil.copy(a.checkpoint, folder / "resnet18.pt")
        else:
            torch.manual_seed(0)
            net = torch.nn.DataParallel(classifier_from_arch("resnet18", a.classes).module)
            torch.save(net.state_dict(), folder / "resnet18.pt")
            what = "a ResNet-18 under torchvision's names, random weights, saved out of DataParallel"
        seconds = timed(folder, lines)
    document = {
        "commands": [{"command": c, "seconds": round(s, 1)} for c, s in zip(lines, seconds, strict=True)],
        "clone_seconds": round(cloned, 1),
        "images": images,
        "classes": a.classes,
        "checkpoint": what,
        "wheels": "from the machine's own package index",
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(document, indent=1))
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
