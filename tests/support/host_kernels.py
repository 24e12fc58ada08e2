"""csrc/kernels.cu on a processor: compiled as C++ against csrc/host_shim.h, launched block by block, thread by thread."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from diffsmooth_trt.device.launch import Kernels, kernel_source

SOURCE = Path(__file__).with_name("host_kernels.cpp")
FLAGS = ("-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC")
# What a launch has to pass for each type that a kernel's parameter can have.
TYPES = {
    "int": ("int32",),
    "ds_u64": ("uint64",),
    "const ds_u32*": ("uint32",),
    "ds_u32*": ("uint32",),
    "const ds_u64*": ("uint64",),
    "ds_u64*": ("int64", "uint64"),
    "const long long*": ("int64",),
    "long long*": ("int64",),
    "const int*": ("int32",),
    "int*": ("int32",),
    "const unsigned char*": ("uint8",),
    "const float*": ("float32",),
    "float*": ("float32",),
    "const void*": ("float32", "float16", "uint16"),
    "void*": ("float32", "float16", "uint16"),
}


def compiler() -> str | None:
    """The system's C++ compiler, the one that Python extensions are built with where there is a choice."""
    configured = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "").split()
    return next((found for name in (*configured[:1], "c++", "g++", "clang++") if (found := shutil.which(name))), None)


def compile_kernels(folder: Path) -> ctypes.CDLL:
    """The kernels as a shared object in `folder`."""
    library = folder / "host_kernels.so"
    subprocess.run([compiler() or "c++", *FLAGS, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def signatures() -> dict[str, list[tuple[str, str]]]:
    """The parameters (type, name) of each kernel, read from its source."""
    found = {}
    for name, listed in re.findall(r"DS_KERNEL (\w+)\(([^)]*)\)", kernel_source()):
        parameters = (" ".join(parameter.split()).rsplit(" ", 1) for parameter in listed.split(","))
        found[name] = [(kind, variable) for kind, variable in parameters]
    return found


class HostKernels(Kernels):
    """The kernels on the processor. `grid` = (blocks, threads) where given, else what the work needs.

    Each argument's type is compared with the kernel's, which no GPU does.
    """

    def __init__(self, library: ctypes.CDLL, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.library, self.grid = library, grid
        self.signatures = signatures()

    def launch(self, name: str, count: int, arguments: tuple[Any, ...]) -> None:
        parameters = self.signatures[name]
        assert len(arguments) == len(parameters), name
        values: list[Any] = []
        for (kind, variable), given in zip(parameters, arguments, strict=True):
            if isinstance(given, np.ndarray):
                assert str(given.dtype) in TYPES[kind] and kind.endswith("*"), (name, variable, given.dtype)
                assert given.flags.c_contiguous and (kind.startswith("const") or given.flags.writeable), (
                    name,
                    variable,
                )
                values.append(ctypes.c_void_p(given.ctypes.data))
            elif kind.endswith("*"):
                assert given.dtype == np.uint64, (name, variable)  # an address, or nothing
                values.append(ctypes.c_void_p(int(given)))
            else:
                assert str(given.dtype) in TYPES[kind], (name, variable, given.dtype)
                values.append({"int": ctypes.c_int32, "ds_u64": ctypes.c_uint64}[kind](int(given)))
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        blocks, threads = self.grid or (max(1, -(-count // 64)), 64)
        assert self.library.host_launch(name.encode(), blocks, threads, addresses) == 0, name

    def upload(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array
