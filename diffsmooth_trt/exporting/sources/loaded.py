"""What reading a classifier gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..graph.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedClassifier:
    """A network with its weights, `classes` logits, and what stands around it.

    `image_size` is the side of the images that it is usually fed, None for the network's own input size; `folds` whether
    batch norms that follow a convolution among a module's children also do so in its forward pass.
    """

    net: nn.Module
    classes: int
    preprocessing: Preprocessing
    family: str
    sha256: str
    image_size: int | None = None
    folds: bool = False
    details: dict[str, Any] = field(default_factory=dict)
