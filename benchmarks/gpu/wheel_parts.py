"""ONNX Runtime for CUDA in parts, for a machine without network to which only so much travels in a call.

Its wheel is 255 MB, most of it machine code for kinds of GPU that are not there: the prepared one keeps that of one kind, the
bytes of the others become zeros, which compress to nothing. Nothing of it has been run on a GPU.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from findings import Skipped

PART = 38 * 2**20  # with the checkout it has to stay below what travels in a call
NAME, VERSION = "onnxruntime-gpu", "1.31.0"
PYTHON, CAPABILITY = "3.12", "9.0"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
LEFT_OUT = ("libonnxruntime_providers_tensorrt.so", "onnxruntime/tools/", "onnxruntime/transformers/")
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
FAT_BINARY = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # magic, version, size of the header


def only(code: bytes, capability: str) -> tuple[bytes, int]:
    """A library with the machine code of one compute capability, that of others zeroed; how many pieces were kept.

    The library's fat binaries are a header (magic, sizes) and entries, each with its own header (kind, header's and payload's
    size; at byte 28 the capability, 90 for 9.0).
    """
    wanted, out, kept, place = int(capability.replace(".", "")), bytearray(code), 0, 0
    while (place := code.find(FAT_BINARY, place)) >= 0:
        (size,) = struct.unpack_from("<Q", code, place + 8)
        entry = place = place + 16
        end = entry + size
        if end > len(code):
            continue
        while entry + 64 <= end:
            header, payload = struct.unpack_from("<IQ", code, entry + 4)
            (architecture,) = struct.unpack_from("<I", code, entry + 28)
            stop = entry + header + payload
            if header < 32 or stop > end:
                raise ValueError(f"an entry of a fat binary at {entry} has sizes that do not fit")
            if architecture == wanted:
                kept += 1
            else:
                out[entry + header : stop] = bytes(payload)
            entry = stop
        place = end
    return bytes(out), kept


def prepare(build: Path) -> str:
    """Fetch the wheel and put its parts in `build`/gpu-wheel-0, -1, …: one of these travels with a call. Says what was made."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder]
        command += ["--python-version", PYTHON, "--implementation", "cp", *(f"--platform={each}" for each in PLATFORMS)]
        done = subprocess.run([*command, f"{NAME}=={VERSION}"], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            return f"no wheel of {NAME} {VERSION}: {(done.stderr.strip().splitlines() or ['pip said nothing'])[-1]}"
        packed, kept = _packed(wheels[0])
    parts = [packed[start : start + PART] for start in range(0, len(packed), PART)]
    sums = [hashlib.sha256(part).hexdigest() for part in parts]
    about = {"name": NAME, "version": VERSION, "python": PYTHON, "capability": CAPABILITY, "sha256": sums}
    for number, part in enumerate(parts):
        target = build / f"gpu-wheel-{number}"
        target.mkdir(parents=True, exist_ok=True)
        (target / "part").write_bytes(part)
        (target / "about.json").write_text(json.dumps(about) + "\n")
    size = len(packed) >> 20
    return f"{NAME} {VERSION}: {kept} pieces of code for {CAPABILITY}, {size} MiB in {len(parts)} parts, build/gpu-wheel-0 …"


def _packed(wheel: Path) -> tuple[bytes, int]:
    kept, out = 0, io.BytesIO()
    with zipfile.ZipFile(wheel) as source, tarfile.open(fileobj=out, mode="w:xz", preset=3) as target:
        for name in source.namelist():
            if name.endswith("/") or any(part in name for part in LEFT_OUT):
                continue
            content = source.read(name)
            if name.endswith(CUDA_PROVIDER):
                content, kept = only(content, CAPABILITY)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            target.addfile(entry, io.BytesIO(content))
    return out.getvalue(), kept


def install(build: Path, target: Path, capability: str) -> Path:
    """The folder in `target` where the parts of `build` are unpacked, checked by their sums; Skipped where one is missing."""
    parts = {int(path.parent.name.rpartition("-")[2]): path for path in build.glob("gpu-wheel-*/part")}
    if not parts:
        raise Skipped(
            f"the parts of {NAME} are not here: `session.sh prepare` makes build/gpu-wheel-*, one for each call"
        )
    about: dict[str, Any] = json.loads(next(iter(parts.values())).with_name("about.json").read_text())
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for what, made, found in (
        ("Python", about["python"], here),
        ("compute capability", about["capability"], capability),
    ):
        if made != found:
            raise Skipped(f"the prepared {NAME} is for {what} {made}, here it is {found}")
    missing = [number for number in range(len(about["sha256"])) if number not in parts]
    if missing:
        raise Skipped(
            f"{NAME}: part {missing[0]} of {len(about['sha256'])} is not here: bring build/gpu-wheel-{missing[0]}"
        )
    content = b""
    for number, known in enumerate(about["sha256"]):
        part = parts[number].read_bytes()
        if hashlib.sha256(part).hexdigest() != known:
            raise ValueError(f"build/gpu-wheel-{number} is damaged: its SHA-256 is not that of about.json")
        content += part
    site = target / "site"
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content))) as packed:
        packed.extractall(site, filter="data")
    return site
