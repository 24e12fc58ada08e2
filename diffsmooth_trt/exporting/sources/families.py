"""What exports need to know of a family of diffusion networks; one subclass a family.

A family's network F becomes the denoiser D(x; s, y) = skip·x + out·F(scale·x, t(s), y) of images in [-1, 1] units with noise of
level s (`prediction.coefficients`). Its noise input t(s) is a timestep of a schedule, or whatever the network was trained with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import MALFORMED, InputError
from ...schedule import Schedule
from .checkpoints import load_into, read_checkpoint
from .shards import files_sha256, weight_files

Source = str | PathLike[str]


@dataclass(frozen=True)
class Level:
    """One noise level: `s` in [-1, 1] units, what the network is told for it, and the facts that an engine records."""

    s: float
    noise_input: float
    timestep: float | None = None
    details: dict[str, float] = field(default_factory=dict)


class Family(ABC):
    """One configured network of a family; images have 3 channels.

    `labels` counts the rows that a label may choose from, the null class among them, None for a network without labels;
    `null_class` is the label that stands for "no class" and, where there is one, the last; `sigma_data` is EDM's.
    """

    name: str
    prediction = "epsilon"
    sigma_data = 0.5
    labels_option: str  # what in its configuration gives a network labels
    image_size: int
    labels: int | None = None
    null_class: int | None = None

    @abstractmethod
    def check_input_size(self, size: int) -> None:
        """Raise InputError unless the network takes images of `size` × `size` pixels."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The network with parameters that are yet to be loaded."""

    @abstractmethod
    def level(self, sigma: float, fractional: bool) -> Level:
        """The level at which noise `sigma` (image units) is removed; InputError where the network has none."""

    @abstractmethod
    def noise_inputs(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the network is told for the levels `s`."""

    @abstractmethod
    def row_inputs(self) -> nn.Module:
        """The same as a module of float32 `[B]`."""

    @abstractmethod
    def answer(self, net: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """F's image channels for scaled images, noise inputs `[B]` and labels `[B]`, by the untouched network."""

    @abstractmethod
    def folded(self, net: nn.Module, level: Level, gain: float, out: float) -> nn.Module:
        """The module x ↦ out·F(gain·x, t, null class) at one level, embeddings folded away; large weights are shared."""

    @abstractmethod
    def by_row(self, net: nn.Module) -> nn.Module:
        """The module (x, noise inputs, labels) ↦ F in the form that runs fastest; large weights are shared."""

    @abstractmethod
    def recorded(self) -> dict[str, Any]:
        """The configuration as the facts record it."""

    def details(self) -> dict[str, Any]:
        """What a conditional engine's facts say of its noise levels."""
        return {}

    def schedule_name(self) -> str | None:
        """The noise schedule's name, where there is one."""
        return None

    def load(self, checkpoint: Source, key: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
        """The network with the parameters of `checkpoint`, in eval mode, and what the facts say of which ones they are.

        `key` names one of several sets of them; see `checkpoints.load_state`.
        """
        try:
            with torch.device("meta"):
                net = self.network()
        except (RuntimeError, *MALFORMED) as error:  # what torch's layers refuse
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the network of this configuration cannot be built ({reason}): check the configuration"
            ) from error
        read = read_checkpoint(checkpoint, key)
        load_into(net, read.state, f"checkpoint {checkpoint}", read.remedy("check the configuration"))
        return net.eval(), read.choice.recorded()

    def source_sha256(self, checkpoint: Source) -> str:
        """SHA-256 of the file that holds the parameters."""
        return files_sha256(weight_files(Path(checkpoint)))

    def folded_label(self) -> int | None:
        """The label that a denoiser without labels gives its network; InputError for one that needs a class."""
        if self.labels is not None and self.null_class is None:
            raise InputError(
                "the network is class-conditional: denoising without a label needs null_class in its configuration"
            )
        return self.null_class

    def classes(self) -> int:
        """The number of real classes, labels 0…classes−1; a null class is the label after them.

        Raises InputError for networks without labels and for those whose null class is another label.
        """
        if self.labels is None:
            raise InputError(
                f"--conditional needs a network trained with labels, this one has none: set {self.labels_option} in its "
                "configuration, or leave --conditional out and give --sigma"
            )
        if self.null_class not in (None, self.labels - 1):
            raise InputError(
                f"null_class {self.null_class} stands between the classes: --conditional needs it to be the last label "
                f"({self.labels - 1}); reorder the network's label embedding"
            )
        classes = self.labels - (self.null_class is not None)
        if classes < 2:
            raise InputError(f"--conditional needs at least two classes, this network has {classes}: use another one")
        return classes


class ScheduledFamily(Family):
    """A family whose noise input is a timestep of a schedule."""

    schedule: Schedule

    def level(self, sigma: float, fractional: bool) -> Level:
        """The papers' first t with a ratio of at least 2σ, or the fractional one at which the ratio is 2σ."""
        schedule = self.schedule
        timestep: float = schedule.timestep(sigma)
        s, alpha_bar = float(schedule.ratios[int(timestep)]), float(schedule.alphas_bar[int(timestep)])
        if fractional:
            s = 2 * sigma
            timestep, alpha_bar = float(schedule.fractional_timestep(np.array(s))), 1 / (1 + s * s)
        embedded = schedule.embedded(timestep)
        details = {"ratio": s, "alpha_bar": alpha_bar, "embedded_timestep": embedded}
        return Level(s, embedded, float(timestep), details)

    def noise_inputs(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.schedule.fractional_timestep(s) * self.schedule.embedded(1)

    def row_inputs(self) -> nn.Module:
        return RowTimestep(self.schedule)

    def details(self) -> dict[str, Any]:
        return {"ratios": [float(self.schedule.ratios[0]), float(self.schedule.ratios[-1])]}

    def schedule_name(self) -> str:
        return self.schedule.name


class RowTimestep(nn.Module):
    """What the network embeds for noise levels s `[B]`: `schedule.embedded` of `schedule.fractional_timestep(s)`."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.factor = schedule.embedded(1)
        ratios = schedule.ratios
        self.ratios: Tensor
        self.widths: Tensor
        self.register_buffer("ratios", torch.from_numpy(ratios).float())
        # Above the last ratio the timestep is the last one: that interval has no end.
        self.register_buffer("widths", torch.from_numpy(np.append(np.diff(ratios), np.inf)).float())

    def forward(self, s: Tensor) -> Tensor:
        place = ((s[:, None] >= self.ratios[None]).sum(1) - 1).clamp(min=0)
        at, width = (
            table.index_select(0, place) for table in (self.ratios, self.widths)
        )  # Gather, whatever the exporter
        share = ((s - at) / width).clamp(0, 1)
        return (place + share) * self.factor
