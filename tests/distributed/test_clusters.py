"""A cluster that `ray start` made, with a token, as Ray's own default has it: this machine is of it, or reaches it as a client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffsmooth_trt as dst

pytest.importorskip("ray")
KEY, TOKEN = "c2" * 32, "4f" * 16
CRASHED = "Initialization failure from server"  # Ray's own server of clients dies of gRPC's threads now and then
PROGRAM = "import sys; from diffsmooth_trt.cli import main; sys.exit(main(sys.argv[1:]))"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[dict[str, str], str, str]]:
    """The environment that its users need besides its token, and its two addresses."""
    pytest.importorskip("grpc")
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # a short name: Ray's sockets lie in it
        own = {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": TOKEN, "RAY_DISABLE_IMPORT_WARNING": "1"}
        port, client = free_port(), free_port()
        start = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--num-cpus=2",
        ]
        start += [f"--ray-client-server-port={client}", "--include-dashboard=false", "--disable-usage-stats"]
        start.append(f"--temp-dir={folder}")
        environment = {**os.environ, **own, "RAY_AUTH_MODE": "token"}
        with subprocess.Popen(
            [part for part in start if part], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as head:
            try:
                assert head.stdout is not None
                for line in head.stdout:
                    if "runtime started" in line:
                        break
                else:
                    pytest.fail("the cluster did not start")
                yield {**os.environ, **own}, f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
            finally:
                head.terminate()
                head.communicate(timeout=60)


def certify(asked: dict[str, Any], environment: dict[str, str], mode: str, ray: str, out: Path) -> tuple[int, str]:
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    argv = [sys.executable, "-c", PROGRAM, "certify", *flags, "--ray", ray, "--workers", "1", "--out", str(out)]
    environment = {**environment, "RAY_AUTH_MODE": mode}
    for _ in range(3):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200)
        if CRASHED not in done.stderr:
            break
    return done.returncode, done.stderr


@pytest.fixture
def asked(linear_classifier: Any, images_npz: Any) -> dict[str, Any]:
    shape = (3, 112, 112)
    weights = np.random.default_rng(4).normal(size=(2, int(np.prod(shape))))
    engine = linear_classifier(weights, np.zeros(2), shape=shape)
    settings = {"method": "rs", "sigma": 0.5, "n": 600, "n0": 30, "batch": 64, "backend": "onnxruntime", "threads": 1}
    return {"engine": engine, "data": images_npz(count=3, shape=shape), "key": KEY, **settings}


def test_results_of_one_process(cluster: Any, asked: Any, tmp_path: Path) -> None:
    """By both addresses, and by a Ray of the run's own beside the cluster."""
    environment, node, client = cluster
    with dst.certify(**asked, out=tmp_path / "one.sqlite") as store:
        expected = [replace(result, seconds=0.0) for result in store.results()]
    for name, mode, ray in (("node", "token", node), ("client", "token", client), ("local", "disabled", "local")):
        out = tmp_path / f"{name}.sqlite"
        status, said = certify(asked, environment, mode, ray, out)
        assert status == 0, said
        assert not [line for line in said.splitlines() if "rror" in line or "arning" in line]
        with dst.open_run(out) as store:
            assert [replace(result, seconds=0.0) for result in store.results()] == expected


@pytest.mark.parametrize(
    ("mode", "token", "remedy"),
    [
        ("disabled", TOKEN, "set RAY_AUTH_MODE=token if it asks for a token"),
        ("token", "5e" * 16, "give its token as RAY_AUTH_TOKEN if it has another"),
    ],
)
def test_without_the_token(cluster: Any, asked: Any, mode: str, token: str, remedy: str, tmp_path: Path) -> None:
    if not hasattr(pytest.importorskip("ray").exceptions, "AuthenticationError"):
        pytest.skip("this Ray asks for no tokens")
    environment, node, _ = cluster
    status, said = certify(asked, {**environment, "RAY_AUTH_TOKEN": token}, mode, node, tmp_path / "r.sqlite")
    assert status == 2 and said.splitlines()[-1].endswith(f", {remedy}, or use --ray local")
    assert not (tmp_path / "r.sqlite").exists()
