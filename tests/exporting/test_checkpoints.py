"""Checkpoints: what loads, what is refused in one line, and that nothing in a file is ever executed."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_checkpoint, load_into, load_state, mismatch  # noqa: E402


def small() -> Any:
    return torch.nn.Sequential(collections.OrderedDict(a=torch.nn.Linear(3, 2), b=torch.nn.Linear(2, 1)))


@pytest.mark.parametrize("prefix", ["", "module.", "1.", "1.module.", "module.1.", "_orig_mod.module."])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "ema"])
def test_containers_and_prefixes(tmp_path: Path, prefix: str, container: str | None) -> None:
    net = small()
    state: Any = collections.OrderedDict((prefix + key, value) for key, value in net.state_dict().items())
    content = state if container is None else {"arch": "cifar_resnet110", "epoch": 90, container: state}
    torch.save(content, tmp_path / "c.pt")
    loaded = load_state(tmp_path / "c.pt")
    assert {key: value.tolist() for key, value in loaded.items()} == {
        k: v.tolist() for k, v in net.state_dict().items()
    }


def test_averaged_weights_win(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}, "step": 3}, tmp_path / "c.pt")
    assert load_state(tmp_path / "c.pt")["a"] == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_half_precision_and_strided_tensors_become_float32(tmp_path: Path, zipped: bool) -> None:
    weight = torch.arange(12.0).half().reshape(3, 4).T
    torch.save({"w": weight, "n": torch.tensor(3)}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_state(tmp_path / "c.pt")
    assert loaded["w"].dtype == torch.float32
    assert loaded["w"].is_contiguous()
    assert torch.equal(loaded["w"], weight.float())
    assert loaded["n"].dtype == torch.int64


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "inside a state dict"])
def test_code_is_never_executed(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "c.pt", tmp_path / "marker"
    bad = Malicious(marker)
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(bad))
    elif kind == "inside a state dict":
        torch.save({"state_dict": {"w": torch.zeros(2)}, "extra": bad}, path)
    else:
        torch.save(bad, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match=r"holds code .* was NOT executed: re-save it as a plain state dict") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_whole_modules_are_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "c.pt")
    with pytest.raises(InputError, match="was NOT executed"):
        load_state(tmp_path / "c.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, keep: float, zipped: bool) -> None:
    path = tmp_path / "c.pt"
    torch.save({"w": torch.randn(5000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="truncated or no PyTorch checkpoint") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello, world\n", b"PK\x03\x04 not a zip", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match="truncated or no PyTorch checkpoint"):
        load_state(tmp_path / "c.pt")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.pt", "no such file"),
        (tmp_path, "is a folder without weights: expected"),
    ):
        with pytest.raises(InputError, match=message):
            load_state(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {}}])
def test_checkpoints_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_state(tmp_path / "c.pt")


def test_mismatches_name_the_first_parameters() -> None:
    net = small()
    state = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(5), "c.weight": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        load_into(net, state, "checkpoint c.pt")
    text = str(caught.value)
    assert text.startswith("checkpoint c.pt does not fit the network: parameters 2 missing (b.weight, b.bias)")
    assert "1 unexpected (c.weight)" in text
    assert "1 of another shape (a.bias [5] instead of [2])" in text
    assert "\n" not in text


@pytest.mark.filterwarnings("ignore")  # torch's, of its sparse and quantised tensors
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: w.to_sparse_csr(), "sparse"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised"),
        (lambda w: w.to(torch.complex64), "complex"),
        (lambda w: w.to("meta"), r"without values \(on the meta device\)"),
    ],
    ids=["sparse", "csr", "quantised", "complex", "meta"],
)
def test_tensors_that_are_no_parameters(tmp_path: Path, make: Any, kind: str) -> None:
    torch.save({"a.weight": make(torch.eye(3))}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=f"c.pt: a.weight is {kind}: save the network's own floating-point") as caught:
        load_state(tmp_path / "c.pt")
    assert "\n" not in str(caught.value)


def test_integers_are_no_parameters_and_counters_may_be_anything() -> None:
    net = torch.nn.BatchNorm1d(2)
    state = {**net.state_dict(), "num_batches_tracked": torch.tensor(1.0)}
    wanted = {f"n.{key}": tensor for key, tensor in net.state_dict().items()}
    given = {f"n.{key}": tensor for key, tensor in state.items()}
    assert mismatch(wanted, given) == ""
    given["n.weight"] = torch.ones(2, dtype=torch.int32)
    assert mismatch(wanted, given) == "1 of another kind of number (n.weight int32)"


def test_loading_shares_memory_and_fills_meta_modules() -> None:
    state = small().state_dict()
    with torch.device("meta"):
        net = small()
    load_into(net, state)
    assert net.a.weight.data_ptr() == state["a.weight"].data_ptr()
    assert not net.a.weight.requires_grad


def test_safetensors(tmp_path: Path) -> None:
    """Under its own name or another; half precision becomes float32, prefixes go."""
    save = pytest.importorskip("safetensors.torch", reason="reads safetensors").save_file
    weight = torch.arange(12.0).half().reshape(3, 4)
    for name in ("c.safetensors", "c.pt"):
        save({"module.w": weight, "module.n": torch.tensor(3)}, tmp_path / name)
        loaded = load_state(tmp_path / name)
        assert loaded["w"].dtype == torch.float32
        assert torch.equal(loaded["w"], weight.float())
        assert loaded["n"].dtype == torch.int64


@pytest.mark.parametrize("keep", [0, 1, 9, 60, 0.5, 0.999])
def test_safetensors_cut_short(tmp_path: Path, keep: float) -> None:
    save = pytest.importorskip("safetensors.torch", reason="reads safetensors").save_file
    path = tmp_path / "c.safetensors"
    save({"w": torch.randn(500), "v": torch.randn(500)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="truncated or no safetensors file") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_the_noted_architecture_is_read(tmp_path: Path) -> None:
    torch.save({"arch": "resnet50", "state_dict": {"1.module.w": torch.zeros(1)}}, tmp_path / "c.pth.tar")
    state, arch = load_checkpoint(tmp_path / "c.pth.tar")
    assert (list(state), arch) == (["w"], "resnet50")
