"""How much work the ℓ∞ attacks of an out-of-distribution run may do; what they are, attacks.py says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """APGD `iterations` × `restarts`; PGD `steps` × (`contrast`, `uniform`, `normal`) starts."""

    iterations: int
    restarts: int
    steps: int
    contrast: int
    uniform: int
    normal: int

    @property
    def gradients(self) -> int:
        """How many gradients an image takes."""
        return (self.iterations + 1) * self.restarts + (self.steps + 1) * (self.contrast + self.uniform + self.normal)


BUDGETS = {"small": Budget(20, 1, 10, 1, 1, 1), "large": Budget(500, 5, 200, 1, 4, 4)}
