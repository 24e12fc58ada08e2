"""The store of a run: a new one, or the one that is there if it is of the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..certify.reach import check_reach
from ..errors import InputError
from .config import Output
from .file import is_empty
from .identity import differences
from .record import RunRecord, check_noise_version
from .store import RunStore, open_run

OF_N = ("config", "thresholds")  # what depends on the number of draws


def refuse_existing(output: Output) -> None:
    """InputError where a file is in the way of a new run."""
    out = output.out
    if out is None:
        return
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is not a regular file: give another name")
    if out.exists() and not is_empty(out) and not output.resume:
        raise InputError(f"--out {out} exists: pass --resume to go on with it, or another name")


def recorded_batch(output: Output, asked: int | str) -> int | None:
    """The batch size of the run to be resumed, if it was found for what is `asked` now."""
    if output.out is None or not output.resume or not output.out.is_file() or is_empty(output.out):
        return None
    with open_run(output.out) as store:
        record = store.record
        check_noise_version(output.out, record.classifier)
        if record.batch_choice is not None and record.batch_choice.get("asked") == asked:
            return int(record.batch_choice["chosen"])
        if asked != "auto":
            return None
        return int(next(iter(record.classifier.engines.values()))["batch"])


def open_store(output: Output, record: RunRecord) -> RunStore:
    """A new store for the run, or with `resume` the one that is there, if it is of the same run."""
    refuse_existing(output)  # again: another run may have made the file since the first look
    out = output.out
    if out is None or not out.exists() or is_empty(out):
        check_reach(record.stopping, record.conditions)
        return RunStore.create(out, record)
    store = RunStore.open(out, write=True)
    try:
        longer = _check_same(out, store.record, record, key_given=output.key is not None or output.key_file is not None)
        if longer:
            store.extend(record.stopping.n)
    except BaseException:
        store.close()
        raise
    return store


def _check_same(out: Path, recorded: RunRecord, asked: RunRecord, *, key_given: bool) -> bool:
    """Whether the run at `out` is the one that is asked for, with more draws; InputError where it is another one."""
    old, new = recorded.described(), asked.described()
    if recorded.images == asked.images:
        new.pop("data")  # each image's hash decides: see `run.take_data`
    if recorded.labels is None:
        new.pop("labels", None)
    longer = _is_longer(old["config"], new["config"])
    if longer:
        new = {name: value for name, value in new.items() if name not in OF_N}
    differing = differences({name: old.get(name) for name in new}, new)
    if key_given and asked.key != recorded.key:
        differing.append("key (another one was given)")
    if recorded.shard != asked.shard:
        differing.append(f"shard (run: {recorded.shard}, asked: {asked.shard})")
    if not differing and not recorded.has_distances:
        differing = ["quantise: an older version made it, which did not record how far it moved each image"]
    if not differing and longer and not recorded.stopping.sequential:
        differing = [f"n: a fixed n ({recorded.stopping.n}) was chosen for its bounds, no more draws may follow"]
    if differing:
        raise InputError(
            f"--resume {out}: the run differs in {'; '.join(differing[:3])}; use its settings or another --out"
        )
    return longer


def _is_longer(recorded: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether two configurations differ in the number of draws alone, the second having more."""
    return bool("n" in asked and {**recorded, "n": asked["n"]} == asked and asked["n"] > recorded["n"])
