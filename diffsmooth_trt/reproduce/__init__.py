"""Published tables made again: checkpoints to engines, the paper's settings, and its numbers beside ours."""

from __future__ import annotations

from .run import Reproduction, reproduce
from .tables import TABLES, table

__all__ = ["TABLES", "Reproduction", "reproduce", "table"]
