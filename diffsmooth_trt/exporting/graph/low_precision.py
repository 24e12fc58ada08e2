"""A torch network that multiplies in fp16 or bf16 and does the rest in float32, as an exportable module.

What multiplies takes and gives half the bytes; statistics of norms, softmax, and whatever mixes with a float32 input (the
last step of a denoiser) stay float32. The last linear layer stays so too: logits in bf16 would tie.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MULTIPLY: frozenset[Callable[..., Any]] = frozenset(
    {
        *(F.conv1d, F.conv2d, F.conv_transpose2d, F.linear, F.scaled_dot_product_attention, torch.einsum),
        *(torch.matmul, torch.bmm, torch.baddbmm, torch.addmm, torch.mm),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm),
    }
)
EXACT: frozenset[Callable[..., Any]] = frozenset(
    {
        *(F.group_norm, F.layer_norm, F.batch_norm, F.instance_norm, F.softmax, F.log_softmax),
        *(torch.softmax, torch.mean, torch.var, torch.var_mean, torch.sum, torch.rsqrt, torch.exp),
        *(Tensor.softmax, Tensor.mean, Tensor.var, Tensor.sum, Tensor.rsqrt, Tensor.exp),
    }
)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return type(value)(_cast(part, dtype) for part in value) if type(value) in (tuple, list) else value


class _Casting(TorchFunctionMode):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Casts the tensors that each torch function takes; `exact` is the weight whose product is not to be rounded."""

    def __init__(self, dtype: torch.dtype, exact: Tensor | None) -> None:
        super().__init__()
        self.dtype, self.exact = dtype, exact

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MULTIPLY or func in EXACT:
            exact = func in EXACT or any(part is self.exact for part in args if isinstance(part, Tensor))
            dtype = torch.float32 if exact else self.dtype
            args, kwargs = _cast(tuple(args), dtype), {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)


class LowPrecision(nn.Module):
    """`module` multiplying in `precision` ("fp16", "bf16"): float32 in and out. `module` is copied, its big weights cast."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
        memo: dict[int, Any] = {}
        for layer in module.modules():
            if isinstance(layer, _LAYERS) and layer not in last:
                for given in (layer.weight, layer.bias):
                    if given is not None:
                        memo[id(given)] = nn.Parameter(given.detach().to(self.dtype), requires_grad=False)
        self.net = copy.deepcopy(module, memo)
        self.last = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)][-1:] if last else []
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        with _Casting(self.dtype, self.last[0].weight if self.last else None):
            y: Tensor = self.net(*inputs)
        return y.float()
