"""ONNX Runtime's plug-in for TensorRT for RTX: an `.onnx` file on an RTX card without a plan. Not yet run on a card.

The plug-in is a package of its own beside a plain ONNX Runtime, and registers only where there is a driver. It has no option for
TF32, which it uses; it compiles here, and keeps what it compiled in a folder beside the file.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import onnxruntime as ort

from ...errors import InputError
from .onnxruntime_cuda import OnnxRuntimeCudaEngine

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL = "pip install 'onnxruntime>=1.24' onnxruntime-ep-nv-tensorrt-rtx-cu13 (not beside onnxruntime-gpu)"
NO_FALLBACK = (
    "session.disable_cpu_ep_fallback"  # a node that the provider leaves is an error, not a slow run on the CPU
)


class OnnxRuntimeRtxEngine(OnnxRuntimeCudaEngine):
    """An `.onnx` file in the plug-in, whole or not at all. The probe in the identity tells apart what it compiled."""

    backend = "onnxruntime-rtx"
    strict, called = False, "TensorRT for RTX"

    def _check_installed(self, device: str) -> None:
        """Load the plug-in and register it with ONNX Runtime, once a process."""
        if importlib.util.find_spec(MODULE) is None or not hasattr(ort, "register_execution_provider_library"):
            raise InputError(f"--backend {self.backend} on {device} needs ONNX Runtime's plug-in for it: {INSTALL}")
        try:
            plugin = importlib.import_module(MODULE)
            self.provider = str(plugin.get_ep_name())
            if not self._devices():
                ort.register_execution_provider_library(self.provider, plugin.get_library_path())
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"--backend {self.backend}: its plug-in does not load ({reason}): {INSTALL}") from None
        self.plugin = str(plugin.__version__)
        if len(self._devices()) <= self.gpu_number(device):
            raise InputError(
                f"--backend {self.backend} sees no {device}: it is for RTX cards, compute capability 7.5 and 8.0 to 12.1"
            )

    @staticmethod
    def gpu_number(device: str) -> int:
        """N of "cuda:N"."""
        return int(device.partition(":")[2] or 0)

    def _devices(self) -> list[Any]:
        return [each for each in ort.get_ep_devices() if each.ep_name == self.provider]

    def _session(self, path: str, options: Any) -> Any:
        self.identity |= {"plugin": self.plugin}
        options.add_session_config_entry(NO_FALLBACK, "1")
        options.add_provider_for_devices([self._devices()[self.gpu.number]], self._provider_options(self.provider))
        return ort.InferenceSession(path, options)

    def _provider_options(self, name: str) -> dict[str, str]:
        return {
            "has_user_compute_stream": "1",
            "user_compute_stream": str(self.gpu.stream.ptr),
            "nv_runtime_cache_path": str(self.path.with_name(f"{self.path.name}.rtx")),
        }

    def _check_providers(self) -> None:
        running = self.session.get_providers()
        if self.provider not in running:
            raise InputError(f"ONNX Runtime runs {self.path.name} on {running[0]}, not on {self.provider}: {INSTALL}")
