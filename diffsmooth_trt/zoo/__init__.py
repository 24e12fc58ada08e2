"""Small engines trained on CIFAR-10, and 100 of its test images: what the demo and the tests run on.

Made by `export/zoo_denoiser.py`, `export/zoo_classifier.py`, `export/zoo_detector.py` and `export/zoo_files.py`, whose
docstrings have the commands, seeds and curves. The denoiser is folded for σ = 0.25; one classifier is for dds, one for
diffsmooth with local σ 0.12; the detector makes a joint model of either, for out-of-distribution detection.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
DENOISER = FOLDER / "denoiser-0.25.onnx"
CLASSIFIER_DDS = FOLDER / "classifier-dds.onnx"
CLASSIFIER_DIFFSMOOTH = FOLDER / "classifier-diffsmooth.onnx"
DETECTOR = FOLDER / "detector.onnx"
IMAGES = FOLDER / "cifar10-test-100.parquet"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
