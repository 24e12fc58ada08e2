"""Where torchvision's Resize and CenterCrop put pixels, which timm and transformers follow."""

from __future__ import annotations


def scaled_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) with a shorter side of `shorter` pixels; the longer one is cut off to whole pixels, not rounded."""
    longer = int(shorter * max(height, width) / min(height, width))
    return (shorter, longer) if height <= width else (longer, shorter)


def centre(size: int, crop: int) -> int:
    """Where the middle `crop` of `size` pixels begins; an odd pixel goes before or behind it, whichever makes this even."""
    return round((size - crop) / 2)
