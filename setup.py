"""Builds the one compiled module, `diffsmooth_trt._core`; the rest of the package is in pyproject.toml."""

from __future__ import annotations

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# No -march: the sampler picks its instruction set at run time, so one build serves every machine of its
# architecture. No -ffast-math, and no contraction: the pixel scaling has to be IEEE division everywhere.
FLAGS = ["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-pthread"]

setup(
    ext_modules=[
        Pybind11Extension(
            "diffsmooth_trt._core",
            ["csrc/bindings.cpp", "csrc/sampler.cpp"],
            depends=["csrc/philox.h", "csrc/grid_gaussian.h", "csrc/sampler.h"],
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
    ]
)
