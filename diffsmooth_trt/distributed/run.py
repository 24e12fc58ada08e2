"""A run whose steps workers do: the same run store as one process writes, bit for bit."""

from __future__ import annotations

from ..certify.loop import Runner
from ..certify.progress import NoProgress, Progress
from ..engine.choice import AUTO
from ..errors import InputError
from ..images import Images
from ..runs.config import LOCAL, RunConfig
from ..runs.resume import refuse_existing
from ..runs.run import deadline, finished, note_resumed, opened_store
from ..runs.store import RunStore
from .files import EngineFiles
from .ray_pool import Machine, RayPool, connected, worker_engines
from .steps import RemoteSteps
from .worker import Setup


def run(config: RunConfig, progress: Progress | None = None) -> RunStore:
    """Run `config` to its end by Ray and return the store, open for reading. Raises InputError for what workers cannot do."""
    cluster, output = config.cluster, config.output
    refuse_existing(output)
    if config.engines.batch == AUTO:
        raise InputError("--batch auto is for one worker, there are several: give the number of rows, as --batch 64")
    if not config.stopping.smoothing:
        raise InputError(
            "--certificate lipschitz draws nothing, workers have nothing to do: leave --ray out, name one --device"
        )
    machine = Machine.of(cluster, config.engines.threads)
    images = Images.chosen(config.data, config.choice)
    setup = Setup(
        method=config.method.name,
        options=config.options,
        sigma=config.sigma,
        files={option: EngineFiles.of(path) for option, path in config.files.items()},
        engines=worker_engines(config.engines),
        stopping=config.stopping,
    )
    with connected(cluster.address or LOCAL, machine) as ray, RayPool(ray, setup, machine.workers) as pool:
        facts = pool.facts
        with opened_store(config, images, facts) as store:
            record, shown = store.record, progress or NoProgress()
            pool.begin(record.key)
            note_resumed(store, facts.rows)
            runner = Runner(facts, store, store.rule, RemoteSteps(pool), shown, deadline(output.stop_after))
            try:
                runner.run(images.of_rows(record.asked))
            finally:
                notes, spent = pool.told()
                store.skip(images.skipped)
                store.add_notes(notes)
            if any(spent):
                store.add_evaluations(*spent)
    return finished(store)
