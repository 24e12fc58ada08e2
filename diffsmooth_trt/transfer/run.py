"""From a finished run and another engine of the same network to certificates for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..certify.draws import labels
from ..certify.progress import NoProgress, Progress
from ..certify.rules import Outcome
from ..device import open_device
from ..engine.choice import EngineChoice
from ..errors import InputError
from ..files import check_outputs
from ..images import Image, pixel_digest, together
from ..methods import METHODS, Method
from ..noise import ESTIMATION, Key
from ..noise.counters import TRANSFER
from ..runs.config import RunConfig
from ..runs.engines import open_method
from ..runs.identity import classifier_id, independence, versions
from ..runs.part import begun, check_begun, check_done, check_images, check_key, check_same, part_of, read_begun
from ..runs.record import check_noise_version
from ..runs.reopen import TOGETHER, check_sha256, find, finished_images, open_as_run, own_slots, recorded_images
from ..runs.run import check_noise
from ..runs.store import RunStore, open_run
from ..statistics.bounds import ABSTAIN, binomial_upper
from .file import TransferFile, Transferred
from .pairs import Alone, Drawn, Pairs
from .rule import TransferRule

EARLY = 10  # certified images of which one at least has to be transferable
SHARE = 10  # of the run's draws, one in so many is paired by default
NOTHING = Outcome(ABSTAIN, 0.0, 0.0, 0, 0)  # until the draws are counted
FROM = "from-"  # the options that name the run's own files, where they are elsewhere now


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """`run` is a finished run of certify; `files` are the other classifier's by option, the run's own where they are left out;
    `engines` says how they are run. `pairs` (n on the command line) defaults to a tenth of the run's draws, `alpha` to the run's.
    `given` are the run's own files, and `data`, where they are elsewhere now. `resume` goes on with what a transfer that ended
    early keeps beside `out`.
    """

    run: Path
    out: Path
    files: Mapping[str, Path]
    engines: EngineChoice
    pairs: int | None = None
    alpha: float | None = None
    key: Key | None = None
    given: Mapping[str, Path] | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        inputs = {"RUN": self.run, **{f"--{name}": path for name, path in self.files.items()}}
        check_outputs({"--out": self.out}, inputs)
        check_outputs({"--out": self.out, "what is kept meanwhile": part_of(self.out)}, inputs)
        check_begun(self.out, self.resume)


@dataclass(frozen=True)
class Classifiers:
    """f, the run's classifier, and g, the other; and where g's files and the data are."""

    f: Method
    g: Method
    config: RunConfig
    files: Mapping[str, Path]


def transfer(config: TransferConfig, progress: Progress | None = None) -> TransferFile:
    """Certify `config.files` from the run, and write that to `config.out`; meanwhile it is kept beside, every `TOGETHER` images.

    Raises InputError where the two classifiers are not of one method, noise level, shape and number of classes, where f is not
    exactly the run's classifier, and where their labels agree too rarely for any certificate: it says how often.
    """
    with open_run(config.run) as store, ExitStack() as stack:
        record = store.record
        check_noise_version(store.path, record.classifier)
        pairs = max(1, record.stopping.n // SHARE) if config.pairs is None else config.pairs
        alpha = record.stopping.alpha if config.alpha is None else config.alpha
        rule = TransferRule(record, pairs, alpha)
        least = binomial_upper(0, pairs, rule.of_pairs)
        if least >= 0.5:
            raise InputError(
                f"--n {pairs} pairs at --alpha {alpha:g} prove nothing even where all labels agree: raise one of them"
            )
        both = open_both(store, config.files, config.engines, config.given or {}, stack)
        asked = TransferFile(
            path=config.out,
            run=str(store.path),
            record=record,
            classifier=classifier_id(both.g),
            pairs=pairs,
            alpha=alpha,
            key=config.key or Key.draw(),
            key_drawn=config.key is None,
            files={**{name: str(path) for name, path in both.files.items()}, "data": str(both.config.data)},
            versions=versions(both.g.device),
            rows=independence(both.g.engines),
            images=[],
        )
        wanted = len(store.images_with_results())
        made = _begun(asked, config, wanted)
        if made.images and made.path.exists():
            part_of(config.out).unlink(missing_ok=True)
            return made
        images = finished_images(recorded_images(record, both.config.data), store)
        check_images(part_of(config.out), made.images, images)
        shown = progress or NoProgress()
        shown.start(wanted, len(made.images), 2 * pairs * wanted, 2 * pairs * len(made.images))
        certified = sum(store.result(image.index).predict >= 0 for image in made.images)
        for group in together(images, TOGETHER):
            made = replace(made, images=[*made.images, *evaluated(store, both, rule, made.key, group)])
            certified += sum(store.result(image.index).predict >= 0 for image in group)
            if certified >= EARLY:
                check_agreement(made.images, certified, config.out)
            if len(made.images) < wanted:
                replace(made, path=part_of(config.out)).write()
            shown.update(2 * pairs * len(group), len(group))
        if not made.images:
            raise InputError(f"{store.path} has no results yet: finish the run first")
        check_agreement(made.images, certified, config.out)
        made.write()
        part_of(config.out).unlink(missing_ok=True)
    return made


def _begun(asked: TransferFile, config: TransferConfig, wanted: int) -> TransferFile:
    """The transfer `asked` for with the images that are done. InputError where another one was begun."""
    path = begun(config.out, config.resume)
    if path is None:
        return asked
    before = read_begun(path, TransferFile.read)
    check_same(path, _decides(before), _decides(asked))
    check_key(path, before.key, config.key)
    check_done(path, len(before.images), wanted, whole=path == config.out)
    return replace(before, path=asked.path, run=asked.run, files=asked.files)


def _decides(file: TransferFile) -> dict[str, object]:
    """What decides a transfer, by what it is called."""
    engines = dict(file.classifier.parts)
    return {"run": file.record.to_meta(), "classifier": engines, "--n": file.pairs, "--alpha": file.alpha}


def open_both(
    store: RunStore,
    files: Mapping[str, Path],
    engines: EngineChoice,
    given: Mapping[str, Path],
    stack: ExitStack,
) -> Classifiers:
    """f as the run had it and g of `files`, closed with `stack`. Raises InputError where they do not go together."""
    record = store.record
    if record.method not in METHODS:
        raise InputError(f"{store.path} has method {record.method!r}: use the version that wrote it")
    slots = own_slots(store, (*files, *given))
    named = {name: name for name in files} | {f"{FROM}{name}": name for name in given if name != "data"}
    foreign = [option for option, name in named.items() if name not in slots]
    if foreign:
        raise InputError(f"--{foreign[0]} is not used by --method {record.method}, which the run has: leave it out")
    for name in slots:
        if name in given:
            check_sha256(f"{FROM}{name}", given[name], str(record.classifier.parts[slots[name].part]["sha256"]))
    own = {name: given.get(name) or _own(store, name) for name in (*slots, "data")}
    config, f = open_as_run(store, own, engines.threads)
    stack.callback(f.close)
    taken = {name: files.get(name, own[name]) for name in slots}
    g = open_method(
        config.method,
        taken,
        sigma=config.sigma,
        options=config.options,
        engines=engines,
        batch=int(engines.batch),
        device=open_device(engines.device),
    )
    stack.callback(g.close)
    _check_pair(f, g)
    for method in (f, g):
        check_noise(method, record.stopping)
    return Classifiers(f, g, config, taken)


def _own(store: RunStore, name: str) -> Path:
    """Where a file of the run is; the error names the option that says so here."""
    option = "--data" if name == "data" else f"--{FROM}{name}"
    recorded = store.files.get(name)
    if recorded is None:
        raise InputError(f"{store.path} does not record where its {name} is: pass {option}")
    return find(store.path, recorded, option)


def _check_pair(f: Method, g: Method) -> None:
    """InputError unless certificates of f may be transferred to g."""
    if classifier_id(f).id == classifier_id(g).id:
        raise InputError("the engines make the run's own classifier, which has its certificates: give another --engine")
    for what, ours, theirs in (
        ("classes", f.classes, g.classes),
        ("sigma", f.sigma, g.sigma),
        ("images", f.input_shape, g.input_shape),
        ("class of abstentions", f.void, g.void),
    ):
        if ours != theirs:
            raise InputError(
                f"the run's classifier has {what} {ours}, the other {theirs}: give an engine of the same network"
            )
    for method in (f, g):
        if method.place_dependent:
            raise InputError(
                "last bits of a classifier depend on a row's place in the batch on this device, which transfer does not bound: use "
                "--device cpu, or certify it by itself"
            )


def evaluated(
    store: RunStore, both: Classifiers, rule: TransferRule, key: Key, images: Sequence[Image]
) -> list[Transferred]:
    """The images' draws, paired or of the other classifier alone, and what follows from them."""
    votes = {image.index: store.votes(image.index) for image in images}
    hits = {index: tuple(each.hits) or (int(each.totals[ESTIMATION][each.selected]),) for index, each in votes.items()}
    alone = {index for index, each in votes.items() if rule.draws(hits[index], each.trials)[0]}
    paired, single = ([image for image in images if (image.index in alone) == which] for which in (False, True))
    of_f, of_g = (labels(method, key, TRANSFER, paired, rule.pairs) for method in (both.f, both.g))
    drawn: dict[int, Drawn] = {
        image.index: Pairs.of(f, g, votes[image.index].selected) for image, f, g in zip(paired, of_f, of_g, strict=True)
    }
    drawn |= {
        image.index: Alone.of(g, votes[image.index].selected)
        for image, g in zip(single, labels(both.g, key, TRANSFER, single, 2 * rule.pairs), strict=True)
    }
    transferred = []
    for image in images:
        known, index = store.known(image.index), image.index
        made = Transferred(
            index=index,
            label=image.label,
            sha256=pixel_digest(image),
            distance=known[2] if known else 0.0,
            chosen=votes[index].selected,
            hits=hits[index],
            trials=votes[index].trials,
            pairs=drawn[index],
            outcome=NOTHING,
        )
        transferred.append(replace(made, outcome=rule.outcome(made.evidence)))
    return transferred


def check_agreement(images: Sequence[Transferred], certified: int, out: Path) -> None:
    """InputError where the run certified images and none of them can be certified for g; nothing of that is kept beside `out`."""
    if not certified or any(image.outcome.predict >= 0 for image in images):
        return
    part_of(out).unlink(missing_ok=True)
    share = sum(image.pairs.agree for image in images) / sum(image.pairs.total for image in images)
    raise InputError(
        f"the two classifiers agree on the run's class in {share:.1%} of draws, too rarely to certify any of {len(images)} "
        "images: give an engine of the same network, or more --n"
    )
