"""--resize and --crop against torchvision's own formulas, written out here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsmooth_trt.images import Images


def torchvision(pixels: np.ndarray, size: int, crop: int) -> np.ndarray:
    """Resize(size, bicubic) and CenterCrop(crop) of torchvision.transforms.functional, on Pillow images."""
    height, width = pixels.shape[:2]
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    picture = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = round((new_height - crop) / 2.0), round((new_width - crop) / 2.0)
    return np.asarray(picture.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (33, 28), (40, 40), (35, 32)])
def test_resize_and_crop_are_torchvisions(tmp_path: Path, resize: int, crop: int) -> None:
    """vision#2950, robustbench#59: no pixel differs, whichever side is the longer, in sizes where rounding would."""
    random = np.random.default_rng(0)
    sizes = [(48, 64), (64, 48), (43, 64), (50, 64), (61, 37), (64, 64), (40, 61), (39, 53)]
    for number, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.npz"
        np.savez(path, images=pixels, labels=np.zeros(1, np.int64))
        (image,) = Images(path, resize=resize, crop=crop)
        np.testing.assert_array_equal(image.pixels, torchvision(pixels[0], resize, crop), err_msg=str((height, width)))
