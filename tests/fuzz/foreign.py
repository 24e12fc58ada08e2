"""Formats of other people's files: images and sets of them, names of classes, networks and their configurations."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from inputs import ODD, Format, bytes_changed, json_changed, text_changed
from PIL import Image as PillowImage

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.datasets.classes import read_class_map
from diffsmooth_trt.engine.class_names import names_in_metadata

PAGE = 2**31 // 4  # times four: see `rows_declared`
RAN = Path(tempfile.gettempdir()) / f"fuzz-ran-{os.getpid()}"


class _Runs:
    """What a hostile pickle holds: reading it with code allowed would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def read_images(path: Path) -> None:
    for _ in dst.Images(path):
        pass


def encoded() -> list[bytes]:
    """Sound images in every encoding that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    found = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF", "TIFF"):
        buffer = BytesIO()
        PillowImage.fromarray(pixels).save(buffer, kind)
        found.append(buffer.getvalue())
    buffer = BytesIO()
    PillowImage.fromarray(pixels).convert("P").save(buffer, "PNG")
    return [*found, buffer.getvalue()]


def read_folder(path: Path) -> None:
    """The file as the only image of a class."""
    folder = path.parent / "classes" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "a.png")
    read_images(folder.parent)


def declared(data: bytes) -> int:
    """Bytes of a picture, as its header says: 4 a pixel, as decoders take them."""
    try:
        with warnings.catch_warnings(action="ignore"), PillowImage.open(BytesIO(data)) as image:
            return max(len(data), 4 * image.width * image.height)
    except Exception:  # whatever it is, no picture
        return len(data)


def rows_declared(data: bytes) -> int:
    """The largest of the pictures in parquet's rows, or of its pages: Arrow takes at its word what a page says of its size, 2 GiB
    at most."""
    try:
        rows = pq.read_table(BytesIO(data))["img"].to_pylist()
        return max([PAGE, *(declared(row["bytes"]) for row in rows)])
    except Exception:  # whatever it is, not read
        return PAGE


def parquet(rows: Any) -> bytes:
    buffer = BytesIO()
    pq.write_table(rows, buffer)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, images=np.zeros((3, 5, 5, 3), np.uint8), labels=np.arange(3))
    return buffer.getvalue()


def _open(path: Path) -> None:
    dst.open_engine(path, batch=2, role="classifier", backend="onnxruntime").close()


def checkpoints() -> list[Format]:
    """Checkpoints that torch and safetensors read; none where torch is not installed."""
    try:
        import torch
        from safetensors.torch import save

        from diffsmooth_trt.exporting.sources.checkpoints import load_state
    except ImportError:
        return []
    buffer = BytesIO()
    torch.save({"state_dict": {"a.weight": torch.zeros(3, 4), "b": torch.ones(2)}}, buffer)

    def hostile(rng: random.Random, data: bytes) -> bytes:
        out = BytesIO()
        torch.save({"state_dict": {"a": torch.zeros(2)}, "x": _Runs(str(RAN))}, out)
        plain = pickle.dumps({"a": _Runs(str(RAN))})
        return rng.choice((bytes_changed(rng, out.getvalue()), bytes_changed(rng, plain), out.getvalue(), plain))

    weights = save({"a.weight": torch.zeros(3, 4), "b": torch.ones(2)})
    return [
        Format("checkpoint", ".pt", [buffer.getvalue()], load_state, hostile),
        Format("safetensors", ".safetensors", [weights], load_state),
    ]


def several(files: dict[str, Any]) -> bytes:
    """JSON files of one folder as one input."""
    return json.dumps(files).encode()


def one_changed(rng: random.Random, data: bytes) -> bytes:
    """One of several JSON files changed."""
    files = json.loads(data)
    name = rng.choice(list(files))
    return several({**files, name: json_changed(rng, files[name])})


def unpacked(path: Path, folder: Path) -> None:
    """Write the files of an input into a folder, where nothing else changes; what is no input is a file of that content."""
    data = path.read_bytes()
    try:
        files = json.loads(data)
        named = {str(name): json.dumps(value) for name, value in files.items()}
        safe = all(Path(name).name == name and "\0" not in name and 0 < len(name) < 99 for name in named)
    except (ValueError, AttributeError, RecursionError):
        safe = False
    if not safe:
        (folder / "config.json").write_bytes(data)
        return
    for name, content in named.items():
        (folder / name).write_text(content, encoding="utf-8", errors="surrogatepass")


def cells_changed(rng: random.Random, data: bytes) -> bytes:
    """Lines with one of the parts between commas replaced, left out or doubled."""
    lines = [line.split(",") for line in data.decode().splitlines()]
    line = rng.choice(lines)
    at, kind = rng.randrange(len(line)), rng.randrange(6)
    if kind == 0:
        del line[at]
    elif kind == 1:
        line.insert(at, line[at])
    else:
        line[at] = str(rng.choice(ODD))
    return "\n".join(map(",".join, lines)).encode("utf-8", "surrogatepass")


def class_maps() -> list[Format]:
    by_name = [
        {"cat": 3, "dog": 5},
        {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]},
        ["cat", "dog"],
        {"cat": "dog"},
    ]
    lines = [
        b"cat,3\ndog,5",
        b"name,class\ncat,3\ndog,5",
        b"tench\ngoldfish",
        b"n01440764 tench\nn01443537 goldfish",
        b"a,b\nc,d",
    ]
    return [
        Format("class-map", ".json", [json.dumps(each).encode() for each in by_name], read_class_map, text_changed),
        Format("class-lines", ".txt", lines, read_class_map, cells_changed),
        Format("class-names", ".json", [several({"names": str(each)}) for each in by_name], read_names, one_changed),
    ]


def read_names(path: Path) -> None:
    """The metadata of an ONNX file, which are texts by name."""
    try:
        metadata = {str(name): str(value) for name, value in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError, RecursionError):
        metadata = {"names": path.read_text(encoding="utf-8", errors="replace")}
    names_in_metadata(metadata, 10)


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return buffer.getvalue()


def tar_changed(rng: random.Random, data: bytes) -> bytes:
    """A tar with a file of it renamed, replaced, left out, doubled, or of another kind."""
    members = []
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        for info in tar:
            content = tar.extractfile(info)
            members.append((info.name, content.read() if content else b""))
    at, kind = rng.randrange(len(members)), rng.randrange(5)
    name, content = members[at]
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.insert(rng.randrange(len(members) + 1), (name, content))
    elif kind == 2:
        ends = (".cls", ".json", ".png", ".PNG", ".CLS", "", ".jpg.cls", "/", ".txt")
        members[at] = (rng.choice(("a/0", "1", "../0", "é", ".x", "0" * 200)) + rng.choice(ends), content)
    elif name.endswith(".json"):
        members[at] = (name, json.dumps(json_changed(rng, json.loads(content))).encode())
    else:
        odd = str(rng.choice(ODD)).encode("utf-8", "surrogatepass")
        members[at] = (name, odd if name.endswith("cls") else bytes_changed(rng, content))
    return tar_of(members)


def tars() -> Format:
    png, jpeg = encoded()[:2]
    members = [("a/0.png", png), ("a/0.cls", b"3"), ("a/1.jpg", jpeg), ("a/1.cls", b"5")]
    told = [("0.png", png), ("0.json", b'{"label": 3, "text": "x"}'), ("1.png", png), ("1.json", b'{"label": "dog"}')]
    seeds = [tar_of(members), tar_of(told), tar_of([member for member in members if not member[0].endswith("cls")])]
    return Format("tar", ".tar", seeds, read_images, tar_changed, holds=lambda data: max(len(data), 4 * 179 * 10**6))


FEATURES = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def table(features: Any = FEATURES) -> Any:
    rows = pa.table({"img": [{"bytes": data, "path": "x"} for data in encoded()[:3]], "label": [0, 1, 1]})
    said = json.dumps({"info": {"features": features}})
    return rows.replace_schema_metadata({"huggingface": said.encode("utf-8", "surrogatepass")})


def features_changed(rng: random.Random, data: bytes) -> bytes:
    """Parquet whose description by `datasets` is changed."""
    return parquet(table(json_changed(rng, FEATURES)))


def saved_sets(folder: Path) -> list[Format]:
    """Folders of `Dataset.save_to_disk`: what is said of them, and the rows themselves."""
    data = BytesIO()
    with pa.ipc.new_stream(data, table().schema) as writer:
        writer.write_table(table())
    arrow = data.getvalue()
    state = {"_data_files": [{"filename": "data-0.arrow"}], "_split": "test", "_indices_data_files": None}
    info = {"features": FEATURES, "splits": {"test": {"num_examples": 3}}}
    here = folder / "saved"

    def read(path: Path, rows: bytes | None = None) -> None:
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        (here / "data-0.arrow").write_bytes(arrow if rows is None else rows)
        if rows is None:
            unpacked(path, here)
        else:
            (here / "state.json").write_text(json.dumps(state))
        read_images(here)

    said = several({"state.json": state, "dataset_info.json": info})
    return [
        Format("saved", ".json", [said], read, one_changed),
        Format(
            "arrow", ".arrow", [arrow], lambda path: read(path, path.read_bytes()), holds=lambda data: 4 * 179 * 10**6
        ),
        Format("features", ".parquet", [parquet(table())], read_images, features_changed, holds=rows_declared),
    ]


def of_networks(folder: Path, wanted: Sequence[str]) -> list[Format]:
    """Those that are wanted, all where nothing is named; none where torch or a library of theirs is not installed."""
    try:
        from networks import formats as makers
    except ImportError:
        return []
    found = []
    for name, make in makers(folder).items():
        with contextlib.suppress(ImportError):
            found += make() if not wanted or any(each.startswith(name) for each in wanted) else []
    return found


def formats(folder: Path, wanted: Sequence[str] = ()) -> list[Format]:
    """All of them, of networks those that are `wanted`."""
    return [
        Format("image", ".png", encoded(), read_folder, holds=declared),
        Format("parquet", ".parquet", [parquet(table())], read_images, holds=rows_declared),
        Format("npz", ".npz", [npz()], read_images),
        Format("cifar", ".bin", [bytes(3073 * 2)], read_images),
        Format("onnx", ".onnx", [zoo.CLASSIFIER_DDS.read_bytes()], _open),
        *class_maps(),
        tars(),
        *saved_sets(folder),
        *checkpoints(),
        *of_networks(folder, wanted),
    ]
