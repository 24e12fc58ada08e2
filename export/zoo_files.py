"""Make the zoo's files from the trained checkpoints: half-precision state dicts, engine files, and 100 test images.

    python export/zoo_files.py --denoiser runs/denoiser.pt --dds runs/dds.pt --diffsmooth runs/diffsmooth.pt \
        --detector runs/detector.pt --test TEST.parquet

Every argument may be left out: what is given is made anew. State dicts go to export/zoo/, the rest into the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as pq
import torch

from diffsmooth_trt import zoo
from diffsmooth_trt.exporting import export_classifier, export_denoiser, export_detector

STATES = Path(__file__).parent / "zoo"
ARCH = "resnet56"
SIGMA = 0.25


def halved(source: Path, name: str, *keys: str) -> Path:
    """The state dict under the first of `keys` in `source`, in half precision under export/zoo/."""
    content = torch.load(source, weights_only=True)
    state = next(content[key] for key in keys if key in content)
    STATES.mkdir(exist_ok=True)
    target = STATES / name
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, target)
    return target


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--denoiser", type=Path)
    p.add_argument("--dds", type=Path)
    p.add_argument("--diffsmooth", type=Path)
    p.add_argument("--detector", type=Path)
    p.add_argument("--test", type=Path)
    a = p.parse_args()
    if a.denoiser:
        state = halved(a.denoiser, "unet.pt", "ema")
        report = export_denoiser("guided-diffusion", state, "zoo", SIGMA, zoo.DENOISER, store_fp16=True)
        print(report)
    for source, target in ((a.dds, zoo.CLASSIFIER_DDS), (a.diffsmooth, zoo.CLASSIFIER_DIFFSMOOTH)):
        if source:
            state = halved(source, target.with_suffix(".pt").name, "state_dict")
            print(export_classifier(ARCH, state, target, store_fp16=True))
    if a.detector:
        state = halved(a.detector, "detector.pt", "state_dict")
        print(export_detector(state, zoo.DETECTOR, store_fp16=True))
    if a.test:
        pq.write_table(pq.read_table(a.test).slice(0, 100), zoo.IMAGES)


if __name__ == "__main__":
    main()
