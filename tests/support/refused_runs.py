"""Runs a store's life on file systems that lack what the variable REFUSE names (refusing.c), one after the other.

    LD_PRELOAD=refusing.so python refused_runs.py ENGINE DATA FOLDER KIND …

It prints a JSON line a kind: what was found, and what lay in the folder while it was written and after.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import diffsmooth_trt as dst
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.locks import lock_file
from diffsmooth_trt.runs.record import RunRecord
from diffsmooth_trt.runs.shard import shared_key
from diffsmooth_trt.runs.status import status
from diffsmooth_trt.runs.store import RunStore

engine, data, folder, *kinds = sys.argv[1:]
given = {"engine": engine, "data": data, "method": "rs", "sigma": 0.5, "n0": 10, "n": 50, "backend": "onnxruntime"}
made: list[RunRecord] = []  # what the first of all, a run, says of itself


def life(out: Path) -> dict[str, object]:
    """What becomes of a store at `out`; the first of all is a run's."""
    found: dict[str, object] = {"key": shared_key(out.with_name("key"))[0] == shared_key(out.with_name("key"))[0]}
    if kind == kinds[0]:
        dst.certify(**given, out=out).close()
        with dst.open_run(out) as store:
            found["notes"] = list(store.record.notes)
            made.append(dataclasses.replace(store.record, notes=()))
    else:
        with RunStore.create(out, made[0]) as store:
            found["notes"] = store.weaker
            store.add_image(0, 0, "00")
            store.commit()
    try:
        RunStore.create(out, made[0])
    except InputError as error:
        found["again"] = error.message
    with RunStore.open(out, write=True) as store:
        found["live"], found["during"] = status(out).live, sorted(os.listdir(out.parent))
        try:
            RunStore.open(out, write=True)
        except InputError as error:
            found["second"] = error.message
        store.add_notes(["written"])
        with dst.open_run(out) as read:
            found["read"] = "written" in read.record.notes
    found["dead"], found["after"] = status(out).live, sorted(os.listdir(out.parent))
    gone = {"host": os.uname().nodename, "pid": 2**22 - 1, "boot": "x", "started": ""}
    lock_file(out).write_text(json.dumps(gone))
    with RunStore.open(out, write=True) as store:
        found["images"] = len(store.known_images())
    lock_file(out).unlink(missing_ok=True)
    return found


for kind in kinds:
    os.environ["REFUSE"] = kind
    here = Path(folder) / kind
    here.mkdir()
    print(json.dumps({"kind": kind, **life(here / "r.sqlite")}))
