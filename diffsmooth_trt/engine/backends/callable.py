"""A function or a torch module as an engine. It has no file and no hash, and nobody can prove that it keeps rows apart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import Floats32
from ...errors import EngineError, InputError
from ..base import Engine, Inputs
from ..facts import EngineFacts

Call = Callable[[Any], Any]


def called(call: Call, name: str, x: Floats32) -> tuple[Any, bool]:
    """What `call`, the argument `name`, returns for `x`, and whether it takes torch tensors rather than NumPy arrays.

    A torch module takes tensors. Of a function both are tried, arrays first. Raises InputError where it takes neither, and for
    a module in training mode.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(call, torch.nn.Module):
        if any(module.training for module in call.modules()):
            raise InputError(f"{name} is in training mode, expected a module in eval mode: call {name}.eval() first")
        return _with_tensors(call, x), True
    try:
        return call(x.copy()), False
    except Exception as error:
        if torch is None:
            raise InputError(
                f"{name} raised {_said(error)} for a NumPy array float32 {x.shape}: it has to take such"
            ) from error
        try:
            return _with_tensors(call, x), True
        except Exception as second:
            more = "" if _said(second) == _said(error) else f", and {_said(second)} for a torch tensor"
            raise InputError(
                f"{name} raised {_said(error)} for a NumPy array float32 {x.shape}{more}: it has to take arrays or tensors"
            ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__} ({(str(error).splitlines() or [''])[0][:120]})"


def _with_tensors(call: Any, x: Floats32) -> Any:
    """What `call` returns for a tensor on the device of its parameters, where it has any."""
    torch = sys.modules["torch"]
    parameters = next(iter(call.parameters()), None) if isinstance(call, torch.nn.Module) else None
    with torch.inference_mode():
        given = torch.from_numpy(x.copy())
        return call(given if parameters is None else given.to(parameters.device))


def _array(value: Any) -> np.ndarray[Any, Any]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


class CallableEngine(Engine):
    """`call` for batches of `batch` rows: labels int `[batch]` or logits `[batch, classes]`, or a denoiser's images."""

    backend = "callable"
    may_depend_on_place = True
    uncoupled = (
        "let what it returns for a row depend on that row alone (a module in eval mode, no statistics over the batch)"
    )

    def __init__(self, call: Call, facts: EngineFacts, batch: int, name: str) -> None:
        super().__init__(Path(name), facts, batch, sha256="")
        del self.identity["sha256"]
        self.identity["callable"] = (
            f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__name__)}"
        )
        self.call, self.tensors, self.labels = call, False, False
        zeros = np.zeros((batch, *facts.input_shape), np.float32)
        output, self.tensors = called(call, name, zeros)
        self.labels = _array(output).ndim == 1
        self.identity |= {"version": "", "precision": "its own"}

    def run(self, x: Floats32, *, nhwc: bool = False) -> Floats32:
        y: Floats32 = self._checked(x, nhwc=nhwc)
        bad = ~np.isfinite(y).reshape(len(y), -1).all(axis=1)
        if bad.any():
            raise EngineError(
                f"{self.name} returned NaN or infinity for {bad.sum()} of {len(y)} rows, expected finite values: look at what "
                "it computes for noisy images"
            )
        return y

    def probe(self) -> str:
        digest = super().probe()
        if self.labels:
            self.warning = ""  # a label is no probability
        return digest

    def _run(self, inputs: Inputs) -> Floats32:
        (x,) = inputs
        output = _array(_with_tensors(self.call, x) if self.tensors else self.call(x.copy()))
        if self.facts.role != "classifier":
            return self._checked_output(output, self.output_shape, "images")
        if output.ndim == 1:
            return self._one_hot(output)
        return self._checked_output(output, self.output_shape, f"logits {self.output_shape} or integer labels")

    def _one_hot(self, labels: np.ndarray[Any, Any]) -> Floats32:
        """Logits float32 [batch, classes] of which the label's is the largest."""
        classes = int(self.facts.classes or 0)
        if labels.dtype.kind not in "iu" or labels.shape != (self.batch,):
            raise InputError(
                f"{self.name} returned {labels.dtype} {labels.shape} for {self.batch} rows, expected logits "
                f"{self.output_shape} or integer labels ({self.batch},): return one for each row"
            )
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            remedy = "return" if wrong.min() < 0 else f"give classes={int(wrong.max()) + 1}, or return"
            raise InputError(
                f"{self.name} returned label {wrong[0]}, expected 0 to {classes - 1}: {remedy} labels in that range"
            )
        logits: Floats32 = np.eye(classes, dtype=np.float32)[labels]
        return logits

    def _checked_output(self, output: np.ndarray[Any, Any], shape: tuple[int, ...], what: str) -> Floats32:
        if output.dtype.kind != "f" or output.shape != shape:
            raise InputError(
                f"{self.name} returned {output.dtype} {output.shape} for {self.batch} rows, expected {what} {shape}: "
                "return floats, one row for each row"
                if what == "images"
                else f"{self.name} returned {output.dtype} {output.shape} for {self.batch} rows, expected {what} ({self.batch},): "
                "return one for each row"
            )
        return np.ascontiguousarray(output, np.float32)


def open_callable(
    call: Call,
    name: str,
    *,
    role: str,
    input_shape: tuple[int, int, int],
    classes: int | None,
    sigma: float | None,
    batch: int,
) -> CallableEngine:
    """An engine of `call`, the argument `name`, for `batch` rows of images `input_shape` (C, H, W).

    `classes` may be None for a classifier that returns logits. Raises InputError for what it returns otherwise, and where a row
    has other values at another place of the batch.
    """
    if role not in ("classifier", "denoiser"):
        raise InputError(f"{name} is a function, the method takes a {role} engine: give an engine file")
    if role == "classifier" and classes is None:
        output = _array(called(call, name, np.zeros((batch, *input_shape), np.float32))[0])
        if output.ndim != 2:
            raise InputError(
                f"{name} returned {output.dtype} {output.shape}, which does not say how many classes there are: give classes"
            )
        classes = output.shape[1]
    if role == "denoiser" and sigma is None:
        raise InputError(f"sigma is missing: {name} is a function, which does not say its noise level")
    facts = EngineFacts(
        role=role, input_shape=input_shape, classes=classes if role == "classifier" else None, sigma=sigma
    )
    engine = CallableEngine(call, facts, batch, name)
    engine.identity["probe"] = engine.probe()
    return engine
