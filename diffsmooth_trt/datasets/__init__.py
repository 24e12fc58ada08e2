"""Files → rows of images, encoded or decoded, with a label and an index, and which class a label is."""

from .arrays import ArraySource
from .base import CHANNELS, Image, Source
from .classes import Classes, Entry, Matching, match, read_class_map
from .decoding import Header, decode
from .opening import files_at, open_source

__all__ = [
    "CHANNELS",
    "ArraySource",
    "Classes",
    "Entry",
    "Header",
    "Image",
    "Matching",
    "Source",
    "decode",
    "files_at",
    "match",
    "open_source",
    "read_class_map",
]
