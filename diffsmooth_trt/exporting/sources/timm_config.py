"""config.json beside weights, as timm's `save_for_hf` writes it: how images are fed to these very weights, what the architecture
was made with, and what classes are called. Of Hugging Face's own only the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...engine.class_names import names_by_number
from ...errors import MALFORMED, InputError
from ...files import file_sha256
from ...nets.values import check_depth, read_object
from ..graph.preprocessing import triple
from .shards import config_beside

AGAIN = "fetch it again, or move it away for what timm says of the architecture"
# What of a pretrained_cfg says how images are fed to the weights.
OF_IMAGES = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def _base(name: str) -> str:
    """An architecture's name without the tag of its weights."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class SavedConfig:
    """The file at `path` and what it says; of weights that timm saved where `of_timm`."""

    path: Path
    said: Mapping[str, Any]
    of_timm: bool

    @classmethod
    def beside(cls, checkpoint: Path, name: str) -> Self | None:
        """The one in the folder, or beside the file, with the weights of timm's `name`; None where there is none for them.

        Beside a file, one of another architecture is another file's. Raises InputError for a folder of another architecture.
        """
        path = config_beside(checkpoint)
        if path is None:
            return None
        said = read_object(path, AGAIN)
        architecture = said.get("architecture")
        if not isinstance(architecture, str):
            return cls(path, said, False)
        if _base(architecture) == _base(name):
            return cls(path, said, True)
        if checkpoint.is_dir():
            raise InputError(f"{path} is of {architecture}, got --arch timm/{name}: give --arch timm/{architecture}")
        return None

    @property
    def _cfg(self) -> Mapping[str, Any]:
        """The configuration of the weights; older files have it in no dictionary of its own."""
        inner = self.said.get("pretrained_cfg", self.said)
        return inner if isinstance(inner, dict) else {}

    def over(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """`cfg` with what is said here of images. Raises InputError for what is no size, mean or deviation."""
        saved = {key: value for key, value in self._cfg.items() if key in OF_IMAGES and value is not None}
        if not self.of_timm:
            return dict(cfg)
        try:
            if "input_size" in saved:
                channels, height, width = (int(side) for side in saved["input_size"])
                saved["input_size"] = (channels, height, width)
            if not 0.1 <= float(saved.get("crop_pct", 1)) <= 1:
                raise ValueError(f"crop_pct {saved['crop_pct']}")
            for key in {"mean", "std"} & saved.keys():
                saved[key] = triple(key, saved[key], positive=key == "std")
        except MALFORMED as error:
            reason = error.message if isinstance(error, InputError) else str(error)
            raise InputError(f"{self.path} does not say how images are fed ({reason}): {AGAIN}") from None
        return {**cfg, **saved}

    def arguments(self) -> dict[str, Any]:
        """What the architecture was made with besides its name: plain values alone. Raises InputError for others."""
        given = self.said.get("model_args") or {}
        if not self.of_timm:
            return {}
        if not isinstance(given, dict) or not all(map(_plain, given.values())) or {*given} & FETCHING:
            raise InputError(
                f"{self.path} has model_args {str(given)[:80]}, expected plain values of the architecture: {AGAIN}"
            )
        check_depth(self.path, given)
        return dict(given)

    def class_names(self, classes: int) -> list[str] | None:
        """The classes' names, each with its description behind a comma; None where there are none.

        They stand in `label_names`, older ones in `labels`, Hugging Face's in `id2label`.
        """
        cfg = self._cfg
        given = (self.said.get("label_names"), cfg.get("label_names"), cfg.get("labels"), self.said.get("id2label"))
        names = next((named for each in given if (named := names_by_number(each, classes)) is not None), None)
        described = self.said.get("label_descriptions") or cfg.get("label_descriptions")
        if names is None or not isinstance(described, dict):
            return names
        return [
            f"{name}, {text}" if isinstance(text := described.get(name), str) and text not in ("", name) else name
            for name in names
        ]

    def facts(self) -> dict[str, Any]:
        """What an engine's details say of it."""
        return {"config": file_sha256(self.path)} if self.of_timm else {}


FETCHING = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "checkpoint_path",
    "cache_dir",
}


def _plain(value: object) -> bool:
    """Whether a value is a number, a text or none, or a list of these."""
    return all(
        isinstance(each, bool | int | float | str | None) for each in (value if isinstance(value, list) else [value])
    )
