"""What a bench found, as JSON keeps it. Rates are samples (noisy images, votes) a second, latencies milliseconds of one step."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import MALFORMED, InputError
from ..files import parsed_json

FORMAT = 1
ENGINE, EAGER = "engine", "eager PyTorch"


@dataclass(frozen=True)
class Spread:
    """The median of measurements, the least, the greatest and how many there were."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """That of one value or more."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, kw_only=True)
class Products:
    """One engine's matrix products and convolutions in a step: `gflops`, 10⁹ of its operations, in `seconds` that it took, at
    `precision`; `share` of the rate at which its backend multiplies large matrices here. None where that is not known."""

    precision: str
    seconds: float | None = None
    gflops: float | None = None
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One `subject` at `batch` rows a step, which a search chose where `auto`.

    `rate` is over turns, `latency` and its 95th percentile `latency_p95` over steps that run alone. `stages` has the share of a
    step's time that each stage takes, `engines` each engine's products by its part of the method, `memory_mib` what opening
    and running it took of the device's memory, of the process's on a CPU. `agreement`, of eager PyTorch, is the share of rows of
    one batch to which the engines give the same label.
    """

    subject: str
    batch: int
    auto: bool
    rate: Spread
    latency: Spread
    latency_p95: float
    stages: Mapping[str, float] = field(default_factory=dict)
    engines: Mapping[str, Products] = field(default_factory=dict)
    memory_mib: float | None = None
    agreement: float | None = None

    @property
    def name(self) -> str:
        """What it is called beside others."""
        return f"{self.subject}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """`classifier` is what votes, as a run's classifier id has it without batch sizes and probes, `machine` versions and
    hardware, `matmul` the rate of large matrix products by precision, 10⁹ operations a second; `notes` is what the reader has to
    know, `seconds` how long all of it took, `others` the share of the processors' time that other processes took while rates
    were measured, None where the system does not say."""

    classifier: Mapping[str, Any]
    machine: Mapping[str, Any]
    rounds: int
    rows: Sequence[Row]
    matmul: Mapping[str, Spread]
    notes: Sequence[str]
    seconds: float
    others: float | None
    format: int = FORMAT

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `to_json` wrote to `path`; InputError for any other file."""
        try:
            values = parsed_json(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise InputError(f"{path} has format {values['format']}, this version reads {FORMAT}: measure it again")
            rows = [_row(each) for each in values["rows"]]
            matmul = {name: Spread(**each) for name, each in values["matmul"].items()}
            result = cls(**{**values, "rows": rows, "matmul": matmul})
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): give what --json wrote") from None
        except MALFORMED as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} is not what `bench --json` writes ({type(error).__name__}): measure it again"
            ) from None
        if not result.rows:
            raise InputError(f"{path} has no measurements: measure it again")
        return result


def _row(values: Mapping[str, Any]) -> Row:
    row = Row(
        **{
            **values,
            "rate": Spread(**values["rate"]),
            "latency": Spread(**values["latency"]),
            "engines": {name: Products(**each) for name, each in values["engines"].items()},
        }
    )
    for value in (row.rate.median, row.latency.median):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(value)
    return row
