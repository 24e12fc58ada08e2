"""Parameters of pickles that hold code: they come out whole, and nothing in the file is ever executed."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch")

from diffsmooth_trt.cli import main  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_parameters  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_state  # noqa: E402
from diffsmooth_trt.exporting.sources.inert import read_parameters  # noqa: E402

RAN: list[str] = []


def reconstruct(meta: dict[str, Any]) -> Any:
    """Stands for torch_utils.persistence._reconstruct_persistent_obj, which executes meta["module_src"]."""
    RAN.append(meta["module_src"])
    made = torch.nn.Module()
    made.__dict__.update(meta["state"])
    return made


class Persistent(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module that pickles itself as EDM's do: its source, its class's name and its attributes, for one call."""

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": "import os", "class_name": "Net", "state": self.__dict__}
        return reconstruct, (meta,)


def network() -> Any:
    torch.manual_seed(1)
    net, inner = Persistent(), Persistent()
    inner.conv, inner.norm = torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)
    inner.register_buffer("scratch", torch.ones(2), persistent=False)
    inner.alias = torch.nn.Parameter(inner.conv.weight.data.half())
    net.model = inner
    return net


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted
    )


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_edms_form(tmp_path: Path, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    """{"ema": network, …}: refused with a remedy, which works when typed."""
    net = network()
    path, out = tmp_path / "edm.pkl", tmp_path / "edm-parameters.pt"
    path.write_bytes(pickle.dumps({"ema": net, "augment_pipe": None, "dataset_kwargs": {"a": 1}}, protocol))
    with pytest.raises(
        InputError, match=r"was NOT executed: .*`diffsmooth-trt export parameters --checkpoint \S+ --out"
    ):
        load_state(path)
    assert main(["export", "parameters", "--checkpoint", str(path), "--out", str(out)]) == 0
    assert "tensors of ema (8); no code of" in capsys.readouterr().out
    wanted = {name.removeprefix("model."): tensor.float() for name, tensor in net.state_dict().items()}
    found = load_state(out)
    assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in wanted.items()}
    assert not RAN


@pytest.mark.parametrize("key", [None, "model"])
def test_modules_that_torch_saved_whole(tmp_path: Path, key: str | None) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    args = argparse.Namespace(lr=0.1)
    torch.save(net if key is None else {"model": net, "args": args}, tmp_path / "c.pt")
    found = read_parameters(tmp_path / "c.pt")
    assert same(found if key is None else found[key], dict(net.state_dict()))


def test_objects_beside_a_state_dict(tmp_path: Path) -> None:
    """A checkpoint that is refused for an argparse.Namespace alone; views of one storage come out right."""
    base = torch.arange(12.0)
    state = {"a": base[2:8].view(2, 3).T, "b": base[::3], "n": torch.tensor(3)}
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1), "path": Path("x")}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="was NOT executed"):
        load_state(tmp_path / "c.pt")
    assert export_parameters(tmp_path / "c.pt", tmp_path / "p.pt") == {"state_dict": 3}
    assert {n: t.tolist() for n, t in load_state(tmp_path / "p.pt").items()} == {
        n: t.tolist() for n, t in state.items()
    }


class Reduced:
    def __init__(self, function: Any, *given: Any) -> None:
        self.reduced = function, given

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("saved", [False, True], ids=["pickle", "torch.save"])
def test_nothing_is_executed(tmp_path: Path, saved: bool) -> None:
    """Calls of any name, of what calls return, of what attributes and imports would do."""
    marker, name = tmp_path / "marker", "module_with_a_side_effect"
    (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    stand_in = types.ModuleType(name)
    stand_in.call = types.FunctionType((lambda *_: None).__code__, {}, "call")  # type: ignore[attr-defined]
    stand_in.call.__module__, stand_in.call.__qualname__ = name, "call"  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    content = {
        "a": Reduced(os.system, f"touch '{marker}'"),
        "b": Reduced(eval, f"open({str(marker)!r}, 'w')"),
        "c": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "d": Reduced(stand_in.call),  # type: ignore[attr-defined]
        "w": {"w": torch.ones(2)},
    }
    path = tmp_path / "c.pt"
    if saved:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    del sys.modules[name]
    sys.path.insert(0, str(tmp_path))
    try:
        found = read_parameters(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert found.keys() == {"w"}
    assert not marker.exists()
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", r"is truncated or no pickle \(UnpicklingError\)"),
        (b"", "is truncated or no pickle"),
        (pickle.dumps({"ema": 3}), "has no parameters that can be read without its code"),
        (pickle.dumps({"a": torch.ones(1000)})[:-200], "is truncated or no pickle"),
    ],
    ids=["text", "empty", "no tensors", "cut short"],
)  # fmt: skip
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        export_parameters(tmp_path / "c.pkl", tmp_path / "p.pt")
    assert "\n" not in str(caught.value)
    assert [left.name for left in tmp_path.iterdir()] == ["c.pkl"]


@pytest.mark.filterwarnings("ignore")  # torch's, of storages with types
@pytest.mark.parametrize(("size", "stride"), [((9,), (1,)), ((10**15,), (0,)), ((2, 2), (-1, 1))])
def test_tensors_that_reach_beyond_what_is_stored(tmp_path: Path, size: Any, stride: Any) -> None:
    made = Reduced(torch._utils._rebuild_tensor_v2, torch.FloatStorage(4), 0, size, stride, False, {})
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"a": made}))
    with pytest.raises(InputError, match="reaches beyond what is stored of it: fetch or save the checkpoint again"):
        read_parameters(tmp_path / "c.pkl")
