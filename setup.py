"""Builds the one compiled module, `diffsmooth_trt._core`, and adds the GPU kernels' source; the rest is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_py import build_py

# No -march: the sampler picks its instruction set at run time, so one build serves every machine of its
# architecture. No -ffast-math, and no contraction: the pixel scaling has to be IEEE division everywhere.
FLAGS = ["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-pthread"]
KERNELS = ("xchacha20.h", "grid_gaussian.h", "kernels.cu")


class WithKernels(build_py):
    """NVRTC compiles the kernels where a GPU is: a wheel carries their source."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install reads csrc itself
            target = Path(self.build_lib) / "diffsmooth_trt" / "csrc"
            target.mkdir(parents=True, exist_ok=True)
            for name in KERNELS:
                shutil.copy(Path("csrc") / name, target / name)


setup(
    cmdclass={"build_py": WithKernels},
    ext_modules=[
        Pybind11Extension(
            "diffsmooth_trt._core",
            ["csrc/bindings.cpp", "csrc/sampler.cpp"],
            depends=["csrc/xchacha20.h", "csrc/grid_gaussian.h", "csrc/sampler.h"],
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
    ],
)
