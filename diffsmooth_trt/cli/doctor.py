"""doctor: what works on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands


def add(commands: Commands) -> None:
    """doctor with its options."""
    doctor = commands.add("doctor", "what works on this machine, and why the rest does not", "doctor --json", _doctor)
    doctor.add_argument("--json", action="store_true", help="everything that was found, as JSON")
    doctor.add_argument("files", nargs="*", type=Path, metavar="FILE", help="engine files: may they run here?")


def _doctor(arguments: argparse.Namespace) -> None:
    from ..doctor import as_json, examine, report

    findings = examine(arguments.files)
    print(as_json(findings) if arguments.json else report(findings))
