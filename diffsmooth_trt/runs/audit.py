"""What is recorded of a run's audit (self_audit.py), to those who read the run.

`rows` of `of` rows drawn were evaluated again, by `spent` evaluations, in `strange` batches mostly of strangers; `void` says why no
vote counts, with the first `differences` (image, phase, sample, label in the run, label again). `before`: rows drawn without an
audit, by an older version. Where places matter (places.py), `moved` of the rows had another place, and `moved_differ` of them
another label.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..certify.places import SLACK
from ..certify.self_audit import REMEDY
from ..errors import InputError


def refuse_void(path: Path, audit: object) -> None:
    """Raise InputError where a run's audit failed, or where what is recorded of it is no audit's."""
    numbers = (
        [each for name, each in audit.items() if name not in ("void", "differences")]
        if isinstance(audit, dict)
        else [None]
    )
    if not isinstance(audit, dict) or not all(type(each) is int and each >= 0 for each in numbers):
        raise InputError(f"{path} is damaged in its table meta (audit): restore it from a copy")
    if audit and not audit.get("void") and not audit.keys() & {"before"} and not {"rows", "of"} <= audit.keys():
        raise InputError(f"{path} is damaged in its table meta (audit): restore it from a copy")
    said = audit.get("void")
    if said or audit.get("differences"):
        raise InputError(f"{path}: its audit failed ({said}): its votes count for nothing; {REMEDY}")


def audit_line(audit: Mapping[str, Any] | None) -> str:
    """What a report says of a run's audit."""
    if not audit:
        return "audit: none"
    line = f"audit: {audit['rows']} rows of {audit['of']} evaluated again, "
    if "moved" in audit:
        differ, staying = audit["moved_differ"], audit["rows"] - audit["moved"]
        line += f"{differ} of {audit['moved']} at other places differ, 0 of {staying} at their own; bounds allow {SLACK:.1%}"
    else:
        line += "0 differ"
    before = audit.get("before", 0)
    return f"{line}; none of the {before} drawn before by an older version" if before else line
