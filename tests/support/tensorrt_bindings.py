"""Prints as JSON what published TensorRT bindings offer, loaded for real against empty libraries.

    python tests/support/tensorrt_bindings.py FOLDER SCRATCH

FOLDER holds the package `tensorrt_bindings`, SCRATCH takes the libraries that it links, compiled here with the functions
that it needs and nothing in them. Where FOLDER holds `tensorrt_rtx_bindings` instead, the libraries are there too. Only names,
enumerations and docstrings are read; nothing of TensorRT is called.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\(.*\) -> .+$", re.MULTILINE)


def load_stubs(folder: Path, scratch: Path) -> None:
    """Compile and load the libraries that the bindings in `folder` name."""
    content = next(folder.glob("tensorrt_bindings/tensorrt*.so")).read_bytes()
    found = re.search(rb"libnvinfer\.so\.(\d+)", content)
    assert found is not None, "the bindings link no libnvinfer"
    source = scratch / "stubs.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in FUNCTIONS), encoding="ascii")
    for library in LIBRARIES:
        name = f"lib{library}.so.{found[1].decode()}"
        subprocess.run(
            [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", scratch / name, source],
            check=True,
        )
        ctypes.CDLL(str(scratch / name), mode=ctypes.RTLD_GLOBAL)


def signatures(member: Any) -> list[str]:
    """The signature lines that pybind11 wrote into a docstring."""
    return [match[0] for match in SIGNATURE.finditer(getattr(member, "__doc__", None) or "")]


def returned(getter: Any) -> str:
    """The type that a property's docstring names."""
    return (getattr(getter, "__doc__", None) or "").strip().partition("\n")[0].rpartition(" -> ")[2]


def describe(thing: Any) -> dict[str, Any]:
    """A class: its methods' signatures, its properties (whether settable, and their type), enum members, classes."""
    found: dict[str, Any] = {"methods": {}, "properties": {}, "members": [], "classes": {}}
    found["members"] = list(getattr(thing, "__members__", {}))
    for name in dir(thing):
        member = getattr(thing, name, None)
        if name.startswith("__") and name != "__init__":
            continue
        if isinstance(member, property):
            found["properties"][name] = {"settable": member.fset is not None, "type": returned(member.fget)}
        elif isinstance(member, type):
            found["classes"][name] = describe(member)
        elif callable(member):
            found["methods"][name] = signatures(member)
    return found


def main() -> None:
    folder, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(folder))
    if (folder / "tensorrt_rtx_bindings").is_dir():
        bindings = importlib.import_module("tensorrt_rtx_bindings")
    else:
        load_stubs(folder, scratch)
        sys.setdlopenflags(os.RTLD_LAZY)
        sys.modules["tensorrt_libs"] = None  # type: ignore[assignment]  # the real libraries, where they are: not wanted here
        bindings = importlib.import_module("tensorrt_bindings")
    classes = {name: describe(value) for name, value in vars(bindings).items() if isinstance(value, type)}
    functions = {
        name: signatures(value) for name, value in vars(bindings).items() if callable(value) and name not in classes
    }
    print(json.dumps({"version": bindings.__version__, "classes": classes, "functions": functions}))


if __name__ == "__main__":
    main()
