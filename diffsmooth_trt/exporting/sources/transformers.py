"""A local Hugging Face image-classification folder → network and preprocessing, through transformers.

Nothing is fetched: only the folder's files are read, no code in it is run. Weights are read as tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import InputError
from ...files import file_sha256
from ...nets.values import check_depth, read_object
from ...scaling import centre
from ..graph.preprocessing import ClassifierWithPreprocessing, Overrides, Preprocessing, triple
from .checkpoints import read_pickle, read_safetensors, shown
from .loaded import LoadedClassifier
from .shards import weight_files

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PREPROCESSOR = "preprocessor_config.json"
ADAPTER = "adapter_config.json"
GIVE = "give --input-size, --mean, --std and --resize-mode"  # all that the file says
AGAIN = "fetch the whole folder again"
MODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
SPARE = 10**6  # numbers of a network that may be missing among its weights, and are named then
ROUNDING = 2 / 255  # what resizing 8-bit images may differ by from resizing floats, in [0, 1] units
OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class Logits(nn.Module):
    """Normalised images → the logits of a transformers classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


def class_names(config: Any) -> list[str]:
    """`id2label` by number; by its placeholder where it lacks a class. Runs match data sets' names with them."""
    known = config.id2label or {}
    return [str(known.get(number, f"LABEL_{number}")) for number in range(int(config.num_labels))]


@contextlib.contextmanager
def _one_line(what: str, remedy: str) -> Iterator[None]:
    """Errors of transformers, of every class and length, as one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what} ({type(error).__name__}: {reason}): {remedy}") from error


def _transformers(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(
            f"checkpoint {folder} is no folder: --arch hf takes one with config.json, weights and {PREPROCESSOR}"
        )
    try:
        import transformers
    except ImportError:
        raise InputError(
            '--arch hf needs transformers, which is not installed: pip install "diffsmooth-trt[export,hf]"'
        ) from None
    logs: Any = transformers.utils.logging
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    return transformers


def read_weights(folder: Path) -> tuple[tuple[Path, ...], dict[str, Tensor]]:
    """The files that hold the folder's weights, those that transformers would load, and the tensors in them by name."""
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise InputError(f"checkpoint {folder} has no weights: expected one of {', '.join(WEIGHTS)}")
    files = weight_files(folder / name)
    state: dict[str, Tensor] = {}
    for file in files:
        # Both name damaged files in their own words, and the second refuses pickles that hold code.
        content = (read_safetensors if file.suffix == ".safetensors" else read_pickle)(file)
        if not isinstance(content, Mapping):
            raise InputError(f"checkpoint {file} holds no tensors by name: {AGAIN}")
        state.update(content)
    return files, state


def _network(transformers: Any, folder: Path, state: dict[str, Tensor]) -> Any:
    """The model of the folder's configuration with the parameters in `state`; InputError where they do not fit."""
    content = read_object(folder / "config.json", AGAIN)
    if "quantization_config" in content:
        raise InputError(f"{folder / 'config.json'} is of a quantised model: give the folder of the unquantised one")
    check_depth(folder / "config.json", content)
    kind = content.get("model_type")
    of_timm = f"timm/{content['architecture']}" if kind is None and "architecture" in content else None
    with _one_line(
        f"config.json of {folder} is of model type {kind!r}, which transformers {transformers.__version__} does not load",
        f"timm saved it: give --arch {of_timm}, to certify and predict {of_timm}:{folder}"
        if of_timm
        else "code in the folder is never run; use a model type that transformers has, or export it yourself and pass --onnx",
    ):
        config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    auto = transformers.AutoModelForImageClassification
    if type(config) not in auto._model_mapping:
        raise InputError(
            f"model type {kind!r} in {folder} has no image classifier in transformers: give another folder"
        )
    with _one_line(
        f"transformers cannot load {folder}", "fetch the folder again, or check that its files belong together"
    ):
        with torch.device("meta"):
            empty = auto.from_config(config, trust_remote_code=False)
        asked, there = (
            sum(each.numel() for each in tensors if isinstance(each, Tensor))
            for tensors in (empty.parameters(), state.values())
        )
        if asked > 2 * there + SPARE:
            raise InputError(
                f"config.json of {folder} is of a network of {asked} numbers, its weights have {there}: {AGAIN}"
            )
        architecture = type(empty)
        model, info = architecture.from_pretrained(
            None,  # given the folder, the library would read the weights once more
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation="eager",  # plain matrix products and a softmax, which every backend fuses
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
            **OFFLINE,
        )
    for what in ("missing", "unexpected", "mismatched"):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info[f"{what}_keys"])
        if names:
            raise InputError(
                f"checkpoint {folder} does not fit its config.json: parameters {len(names)} {what} ({shown(names)}): "
                "give a folder of a fine-tuned image classifier"
            )
    return model.eval().requires_grad_(False)


def _side(values: Any, what: str) -> int:
    """One side of a square in any of the forms that preprocessor files have."""
    if isinstance(values, int):
        return values
    sides = {int(v) for v in dict(values or {}).values() if v is not None} - {0}
    if len(sides) != 1:
        raise InputError(f"{PREPROCESSOR}: {what} {values} is not square: {GIVE}")
    return sides.pop()


def preprocessing_of(values: dict[str, Any], input_size: int) -> Preprocessing:
    """What an image processor's attributes `values` say; `input_size` is the network's where they leave it open."""
    to = _side(values["size"], "size") if values.get("do_resize", True) and values.get("size") else input_size
    size = _side(values["crop_size"], "crop_size") if values.get("do_center_crop") and values.get("crop_size") else to
    if values.get("crop_pct") and not values.get("do_center_crop") and to < 384:  # ConvNeXt's rule
        size, to = to, int(to / values["crop_pct"])
    if to < size:
        raise InputError(f"{PREPROCESSOR} crops {size} of {to} pixels: {GIVE}")
    given = values.get("resample")
    mode = MODES.get(2 if given is None else int(given))
    if mode is None:
        raise InputError(f"{PREPROCESSOR}: resample {values['resample']} is unknown: {GIVE}")
    normalised = values.get("do_normalize", True)
    mean = triple("image_mean", values.get("image_mean"), positive=False) if normalised else None
    std = triple("image_std", values.get("image_std"), positive=True) if normalised else None
    return Preprocessing(mean or (0.0,) * 3, std or (1.0,) * 3, size, to, mode, True, (to - size) // 2)


Process = Callable[
    [np.ndarray[Any, Any]], np.ndarray[Any, Any]
]  # 8-bit `[H, W, 3]` → what the network is fed, `[3, h, w]`


def _pictures(size: int) -> Iterator[np.ndarray[Any, Any]]:
    """Noise that no filter makes alike, larger and smaller than `size`, too faint for Pillow to cut off what overshoots."""
    random = np.random.Generator(np.random.Philox(key=22))
    for side in (size + size // 4 + 1, max(size // 2, 2)):
        yield random.integers(88, 168, (side, side, 3), np.uint8)


def _follows(process: Process, own: Preprocessing) -> bool:
    """Whether `own` gives what the processor gives, but for its rounding to 8 bits."""
    for pixels in _pictures(own.input_size):
        want = process(pixels)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        got = ClassifierWithPreprocessing(nn.Identity(), own, len(pixels))(x)[0].numpy()
        if want.shape != got.shape or np.abs(want - got).max() > ROUNDING / min(own.std):
            return False
    return True


def _measured(process: Process, own: Preprocessing) -> Preprocessing | None:
    """`own` with the processor's map of colours, read off pictures of one colour; None unless it scales and shifts each channel.

    So are read: other factors than 1/255, offsets, a second normalisation, no rescaling at all, and blue first.
    """
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.uint8)
    side = own.input_size + 1
    fed = [process(np.broadcast_to(colour, (side, side, 3)).copy()) for colour in colours]
    if any(each.shape[0] != 3 or np.ptp(each, axis=(1, 2)).max() > 1e-6 for each in fed):
        return None
    black, *lit = (each[:, 0, 0].astype(np.float64) for each in fed)
    slopes = np.stack(lit, axis=1) - black[:, None]  # [channel fed, channel of the image]
    bgr = abs(slopes[0, 2]) > abs(slopes[0, 0])
    scale = np.diag(slopes[:, ::-1] if bgr else slopes)
    rest = (slopes[:, ::-1] if bgr else slopes) - np.diag(scale)
    if (scale <= 0).any() or np.abs(rest).max() > 1e-6 * np.abs(scale).max():
        return None
    mean, std = -black / scale, 1 / scale
    return replace(own, mean=tuple(mean.tolist()), std=tuple(std.tolist()), bgr=bool(bgr))


def _as_it_does(processor: Any, own: Preprocessing) -> Preprocessing:
    """What the processor does, of which its file says `own`; InputError where it does more than a graph of ours."""

    def process(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])

    for colours in (own, _measured(process, own)):
        for at in dict.fromkeys((own.crop_at, centre(own.resize_to, own.input_size))):
            if colours is not None and _follows(process, followed := replace(colours, crop_at=at)):
                return followed
    raise InputError(
        f"{PREPROCESSOR}: the {type(processor).__name__} does more than resize, crop and normalise: {GIVE}"
    )


def _preprocessing(transformers: Any, folder: Path, input_size: int | None, overrides: Overrides) -> Preprocessing:
    """The folder's own preprocessing; from flags alone where they override all of it, or where it has none."""
    size, there = overrides.input_size or input_size, (folder / PREPROCESSOR).is_file()
    normalised = overrides.mean is not None and overrides.std is not None
    everything = normalised and overrides.input_size is not None and overrides.resize_mode is not None
    if size is not None and (everything or (normalised and not there)):
        return Preprocessing((0.0,) * 3, (1.0,) * 3, size, size)
    if not there:
        raise InputError(f"checkpoint {folder} has no {PREPROCESSOR}: give --input-size, --mean and --std")
    read_object(folder / PREPROCESSOR, AGAIN)
    with _one_line(f"{PREPROCESSOR} in {folder} cannot be used", GIVE):
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **OFFLINE)
        own = preprocessing_of(processor.to_dict(), size or 224)
        own = _as_it_does(processor, own)
    return own


def load_folder(folder: Path, overrides: Overrides) -> LoadedClassifier:
    """The classifier in `folder`, float32 whatever it is stored as; InputError for anything that is not a whole one."""
    transformers = _transformers(folder)
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"checkpoint {folder} holds an adapter beside its weights ({ADAPTER}), which would be left out: save what "
            "`merge_and_unload()` of the peft library returns, and give that folder"
        )
    weights, state = read_weights(folder)
    files = [folder / "config.json", *weights]
    model = _network(transformers, folder, state)
    size = getattr(model.config, "image_size", None)
    own = _preprocessing(transformers, folder, size if isinstance(size, int) else None, overrides)
    if (folder / PREPROCESSOR).is_file():
        files.append(folder / PREPROCESSOR)
    hashes = {file.name: file_sha256(file) for file in files}
    return LoadedClassifier(
        Logits(model),
        int(model.config.num_labels),
        own,
        f"hf/{model.config.model_type}",
        hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
        details={"files": hashes, "transformers": version("transformers"), "class_names": class_names(model.config)},
    )
