"""Verifying a transfer: certificates derived again, evidence compared with the run, pairs of a share of images drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ..certify.progress import NoProgress, Progress
from ..engine.choice import EngineChoice
from ..errors import InputError
from ..images import together
from ..noise import ESTIMATION
from ..runs.evidence import run_of
from ..runs.identity import classifier_id, independence, versions
from ..runs.reopen import TOGETHER, device_options, find, finished_images, recorded_images
from ..runs.store import RunStore, open_run
from ..runs.verify import Verification, check_fraction, check_identity, choice, note_key, note_versions, to_draw
from .file import TransferFile, Transferred
from .run import Classifiers, evaluated, open_both


class TransferVerification(Verification):
    """What a verification found; its blocks are the pairs of an image."""

    @property
    def drawn_again(self) -> str:
        return (
            f"pairs of {self.blocks} of {self.recorded} images ({self.samples} draws) drawn again, "
            f"{self.results} certificates derived again; choice of images"
        )


def verify(
    path: Path,
    *,
    given: Mapping[str, Path | None],
    fraction: float = 0.01,
    device: str | None = None,
    threads: int | None = None,
    seed: int,
    progress: Progress | None = None,
) -> TransferVerification:
    """Draw the pairs of a `fraction` of the images again, those that `seed` chooses, and compare all evidence with the run.

    `given` are the other classifier's files and the data by option, where they are elsewhere now. The run and its own files have to
    be where they are recorded, or beside the file and the run. Raises InputError for files that are missing.
    """
    check_fraction(fraction)
    transfer = TransferFile.read(path)
    done = TransferVerification(path, seed, recorded=len(transfer.images), results=len(transfer.images))
    with open_run(run_of(path, transfer.run)) as store, ExitStack() as stack:
        _check_run(store, transfer, done)
        engines = list(transfer.classifier.engines.values())
        files = {name: given.get(name) or find(path, where, f"--{name}") for name, where in transfer.files.items()}
        own = {"data": files.pop("data")}
        how = device_options(engines, engines, device)
        options = EngineChoice(batch=int(engines[0]["batch"]), threads=threads, **how)
        both = open_both(store, files, options, own, stack)
        check_identity(transfer.classifier, classifier_id(both.g), done)
        note_versions(transfer.versions, versions(both.g.device), done)
        if independence(both.g.engines) != dict(transfer.rows):
            done.mismatches.append("rows: those of the classifier are not recorded as they are here")
        count = to_draw(fraction, len(transfer.images))
        chosen = set(
            sorted((each.index for each in transfer.images), key=lambda index: choice(seed, index, 0, 0))[:count]
        )
        _replay(transfer, store, both, chosen, done, progress or NoProgress())
    note_key(transfer.key_drawn, done)
    return done


def _check_run(store: RunStore, transfer: TransferFile, done: TransferVerification) -> None:
    """Add where the evidence is not the run's."""
    recorded, here = transfer.record.described(), store.record.described()
    if (recorded, transfer.record.key) != (here, store.record.key):
        raise InputError(f"{store.path} is not the run that {transfer.path} was made from: put that one there")
    results = set(store.images_with_results())
    missing = sorted(results - {image.index for image in transfer.images})
    if missing:
        done.mismatches.append(f"missing: {len(missing)} images with a result in the run, image {missing[0]} for one")
    for image in transfer.images:
        if image.index not in results:
            done.mismatches.append(f"image {image.index}: the run has no result of it")
            continue
        votes = store.votes(image.index)
        hits = tuple(votes.hits) or (int(votes.totals[ESTIMATION][votes.selected]),)
        if (image.chosen, image.hits, image.trials) != (votes.selected, hits, votes.trials):
            done.mismatches.append(f"image {image.index}: class or votes are not the run's")
        if store.known(image.index) != (image.label, image.sha256, image.distance):
            done.mismatches.append(f"image {image.index}: label, pixels or distance are not the run's")


def _replay(
    transfer: TransferFile,
    store: RunStore,
    both: Classifiers,
    chosen: set[int],
    done: TransferVerification,
    progress: Progress,
) -> None:
    """Draw the pairs of the `chosen` images again, and compare them."""
    recorded: dict[int, Transferred] = {image.index: image for image in transfer.images}
    progress.start(len(chosen), 0, 2 * transfer.pairs * len(chosen), 0)
    images = finished_images(recorded_images(store.record, both.config.data), store)
    for group in together(images, TOGETHER):
        again = [image for image in group if image.index in chosen]
        for image in evaluated(store, both, transfer.rule, transfer.key, again) if again else ():
            done.blocks += 1
            done.samples += image.pairs.total
            if image.pairs != recorded[image.index].pairs:
                done.mismatches.append(
                    f"image {image.index}: recorded {recorded[image.index].pairs}, replayed {image.pairs}"
                )
        progress.update(2 * transfer.pairs * len(again), len(again))
