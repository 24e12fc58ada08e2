"""A table's engines: its checkpoints found, known again by their hashes, and exported; or random ones; or the zoo's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import zoo
from ..errors import InputError
from ..files import content_sha256, parsed_json, write_atomically
from .tables import Network, Row, Table

SEEN, MADE = "checkpoints.json", "engines.json"


def files_of(table: Table, rows: Sequence[Row], models: Path) -> dict[str, Path]:
    """Where each file is that the rows need, by its name below `models`; InputError that names all that are missing."""
    wanted = {_file(network, row): network for row in rows for network in table.networks}
    missing = [f"{file} (published at {of.published})" for file, of in wanted.items() if not (models / file).exists()]
    if missing:
        raise InputError(
            f"--models {models} lacks {'; '.join(missing)}: put them there, or try the way with --random-weights or --zoo"
        )
    return {file: models / file for file in wanted}


def check_hashes(table: Table, rows: Sequence[Row], files: Mapping[str, Path], out: Path) -> dict[str, str]:
    """The checkpoints' SHA-256, of a folder over all of its files. InputError where one is not the published one, or not the one
    that engines in `out` were made of.
    """
    record = out / SEEN
    seen = _noted(record)
    known = {_file(network, row): network.sha256 for row in rows for network in table.networks}
    hashes = {file: content_sha256(path) for file, path in files.items()}
    for file, path in files.items():
        sha256 = hashes[file]
        for whose, expected in (("the published one", known.get(file)), (f"the one in {record}", seen.get(file))):
            if expected is not None and sha256 != expected:
                raise InputError(
                    f"{path} has SHA-256 {sha256[:16]}…, {whose} has {expected[:16]}…: put that file there, or give another --out"
                )
    return hashes


def keep_hashes(table: Table, row: Row, hashes: Mapping[str, str], out: Path) -> None:
    """Keep the hashes of the row's checkpoints, which its engines were made of, in `out`/checkpoints.json."""
    used = {_file(network, row) for network in table.networks if network.used_by(row)}
    noted = _noted(out / SEEN) | {file: hashes[file] for file in used}
    write_atomically(out / SEEN, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def random_files(table: Table, rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Random weights of the published shapes, made once, by the name of the file that they stand for."""
    from ..exporting import check_installed

    check_installed()
    from ..exporting import random_weights

    files: dict[str, Path] = {}
    for network in table.networks:
        function, *arguments = network.random
        named = folder / "-".join(["random", *arguments, function])
        if not named.is_dir():
            named.mkdir(parents=True)
            getattr(random_weights, function)(*arguments, folder=named)
        (made,) = named.iterdir()
        files |= {_file(network, row): made for row in rows}
    return files


def engines_of(
    table: Table, row: Row, files: Mapping[str, Path], hashes: Mapping[str, str], folder: Path
) -> dict[str, Path]:
    """The row's engine files by option, exported into `folder` unless they are there already, made of a checkpoint with the same of
    the `hashes`.
    """
    record = folder / MADE
    made_of = _noted(record)
    engines = {}
    for network in table.networks:
        if not network.used_by(row):
            continue
        file = _file(network, row)
        source, sha256 = files[file], hashes[file]
        level = f"-{row.sigma:g}" if network.export == "denoiser" or "{sigma}" in network.file else ""
        out = folder / f"{table.name}-{network.option}{level}.onnx"
        if not out.exists() or made_of.get(out.name) != sha256:
            _export(network, source, row.sigma, out)
            made_of[out.name] = sha256
            write_atomically(record, json.dumps(made_of, indent=1, sort_keys=True) + "\n")
        engines[network.option] = out
    return engines


def _export(network: Network, source: Path, sigma: float, out: Path) -> None:
    from ..exporting import export_classifier, export_denoiser, export_detector

    out.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = dict(network.options)
    if network.export == "classifier":
        arch = "hf" if source.is_dir() else network.family
        report = export_classifier(arch, source, out, **options)
    elif network.export == "detector":
        report = export_detector(source, out, **options)
    else:
        config = options.pop("config", network.random[1])
        conditional = network.export == "conditional"
        level = None if conditional else sigma
        report = export_denoiser(network.family, source, config, level, out, conditional=conditional, **options)
    report.show()


def zoo_engines(table: Table, row: Row) -> dict[str, Path]:
    """The zoo's engines in the places of the row's; InputError where it has none of a kind."""
    if not table.zoo:
        raise InputError(f"the zoo has no conditional denoiser, which {table.name} needs: use --random-weights")
    used = {network.option for network in table.networks if network.used_by(row)}
    return {option: getattr(zoo, name) for option, name in table.zoo.items() if option in used}


def _noted(record: Path) -> dict[str, str]:
    """The hashes by name that a file of this module holds; none where there is no file. InputError for a damaged one."""
    try:
        noted: dict[str, str] = parsed_json(record.read_text(encoding="utf-8"))
        sound = isinstance(noted, dict) and all(isinstance(value, str) for value in noted.values())
    except FileNotFoundError:
        return {}
    except ValueError:
        sound = False
    if not sound:
        raise InputError(f"{record} is damaged: remove it, and the hashes are taken anew")
    return noted


def _file(network: Network, row: Row) -> str:
    return network.file.format(sigma=f"{row.sigma:.2f}")
