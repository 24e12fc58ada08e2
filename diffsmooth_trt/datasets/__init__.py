"""Files → rows of images, encoded or decoded, with a label and an index."""

from .arrays import ArraySource
from .base import CHANNELS, Image, Source
from .decoding import decode
from .opening import open_source

__all__ = ["CHANNELS", "ArraySource", "Image", "Source", "decode", "open_source"]
