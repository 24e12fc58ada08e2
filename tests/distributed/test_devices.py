"""Lists of devices: which there are, what is refused, and that workers see the GPUs that are named and no other."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.cli import main
from diffsmooth_trt.device import several
from diffsmooth_trt.device.several import VISIBLE, listed_devices, only_visible, present_devices
from diffsmooth_trt.distributed.ray_pool import Machine, connected
from diffsmooth_trt.errors import InputError

W = np.random.default_rng(4).normal(size=48)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A driver that shows so many GPUs."""

    def find(number: int) -> None:
        if not number < count:
            raise InputError(f"cuda:{number} does not exist")

    monkeypatch.setattr(several, "gpus_visible", lambda: count)
    monkeypatch.setattr(several, "find_gpu", find)


def test_lists() -> None:
    assert listed_devices("cpu") == listed_devices("cuda:3") == ()
    assert listed_devices("cpu,cpu") == ("cpu", "cpu")
    assert listed_devices("cuda:2,cuda,cuda:1") == ("cuda:2", "cuda:0", "cuda:1")
    assert listed_devices("all") == ("all",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:0,gpu"}, "'gpu' is unknown: use cpu, or cuda:0"),
        ({"device": "cuda:0,"}, "'' is unknown: use cpu"),
        ({"device": "cuda:0,cuda"}, "names cuda:0 more than once: a GPU takes one worker"),
        ({"device": "cpu,cuda:0"}, "names a CPU and GPUs, which are different classifiers"),
        ({"device": "all,cuda:0"}, "names devices besides all: give all alone"),
        ({"device": "cpu,cpu", "workers": "2"}, "--workers is said by --device cpu,cpu already"),
        ({"device": "all", "ray": "10.0.0.1:6379"}, "--ray 10.0.0.1:6379 is a cluster: give --device cuda:0"),
        ({"device": "cpu,cpu", "batch": "auto"}, "--batch auto is for one worker, there are several"),
        ({"device": "cuda:0,cuda:9"}, "no NVIDIA driver|no usable GPU|cuda:9 does not exist"),
    ],
)
def test_lists_that_cannot_be(
    options: Any, message: str, linear_classifier: Any, images_npz: Any, tmp_path: Path, capsys: Any
) -> None:
    asked = {"engine": linear_classifier(np.zeros((2, 48)), np.zeros(2)), "data": images_npz(count=2), "method": "rs"}
    asked |= {"sigma": "0.5", "out": tmp_path / "r.sqlite", **options}
    assert main(["certify", *(part for name, value in asked.items() for part in (f"--{name}", str(value)))]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not (tmp_path / "r.sqlite").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "127.0.0.1:9",
            r"--ray 127.0.0.1:9: nothing answers there \(Connection refused\): start a cluster by `ray start --head`",
        ),
        ("ray://localhost:9", "nothing answers there"),
        ("no.such.host.invalid:6379", "nothing answers there"),
        ("nonsense", "--ray takes local, auto, HOST:PORT or ray://HOST:PORT, got 'nonsense'"),
        ("127.0.0.1:99999", "--ray takes local"),
        (":6379", "--ray takes local"),
    ],
)
def test_an_address_where_no_ray_is(
    address: str, message: str, linear_classifier: Any, images_npz: Any, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("ray")
    asked = {"engine": linear_classifier(np.zeros((2, 48)), np.zeros(2)), "data": images_npz(count=2), "method": "rs"}
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    begun = time.monotonic()
    assert main(["certify", *flags, "--sigma", "0.5", "--ray", address, "--out", str(tmp_path / "r.sqlite")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error
    assert time.monotonic() - begun < 30 and not (tmp_path / "r.sqlite").exists()


def test_all_is_every_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    assert present_devices(("all",)) == ("cuda:0", "cuda:1", "cuda:2")
    with pytest.raises(InputError, match="cuda:3 does not exist"):
        present_devices(("cuda:1", "cuda:3"))


def test_named_gpus_are_those_that_are_visible_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "5,7,GPU-1a")
    with only_visible(["cuda:2", "cuda:0"]):
        assert os.environ[VISIBLE] == "GPU-1a,5"
    assert os.environ[VISIBLE] == "5,7,GPU-1a"
    monkeypatch.delenv(VISIBLE)
    with only_visible(["cuda:1"]):
        assert os.environ[VISIBLE] == "1"
    assert VISIBLE not in os.environ


def test_each_worker_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives each actor one of those that are named; there need be none for that."""
    pytest.importorskip("ray")
    with connected("local", Machine(devices=("cuda:3", "cuda:1"), workers=2)) as ray:

        class Sees:
            def own(self) -> str:
                return os.environ["CUDA_VISIBLE_DEVICES"]

        actors = [ray.remote(Sees).options(num_gpus=1).remote() for _ in range(2)]
        assert sorted(ray.get([actor.own.remote() for actor in actors])) == ["1", "3"]
        assert ray.cluster_resources()["GPU"] == 2
        with (
            pytest.raises(InputError, match="needs a Ray of its own"),
            connected("local", Machine(devices=("cuda:0", "cuda:1"))),
        ):
            pass


def test_processes_of_a_cpu_write_the_store_of_one(linear_classifier: Any, images_npz: Any, tmp_path: Path) -> None:
    """Three of them, on a machine that may have fewer processors; the actors of a Ray that this test starts."""
    pytest.importorskip("ray")
    engine = linear_classifier(np.stack([np.zeros(48), W]), np.array([0.0, -W.sum() / 2]))
    asked: dict[str, Any] = {
        "engine": engine,
        "data": images_npz(count=6),
        "key": "c1" * 32,
        "method": "rs",
        "sigma": 0.5,
    }
    asked |= {"n": 4000, "n0": 30, "backend": "onnxruntime"}
    dst.certify(**asked, out=tmp_path / "one.sqlite").close()
    dst.certify(**asked, device="cpu,cpu,cpu", out=tmp_path / "many.sqlite").close()

    def rows(path: Path) -> list[Any]:
        with sqlite3.connect(path) as connection:
            found = [
                sorted(connection.execute(f"SELECT * FROM {t}").fetchall()) for t in ("images", "blocks", "results")
            ]
            found.append(connection.execute("SELECT value FROM meta WHERE name = 'classifier'").fetchall())
        connection.close()
        return found

    assert rows(tmp_path / "many.sqlite") == rows(tmp_path / "one.sqlite")
