"""Folders of the diffusers library: a `UNet2DModel` with its scheduler's configuration.

The library loads the parameters and defines the network and the schedule; the exported form replaces its residual and
attention blocks by folded ones (hf_network). Nothing is fetched and no code of the folder runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MALFORMED, InputError, shown
from ...nets.values import check_depth, known_values, read_object
from ...schedule import MOST_STEPS, Schedule
from .diffusers_weights import Weights, check_same_network, choose, weights_in
from .families import Level, ScheduledFamily, Source
from .shards import files_sha256, weight_files

try:
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.utils import logging as diffusers_logging

    from .diffusers_network import ConditionalUNet2D, FoldedUNet2D, embedding
except ImportError as error:
    raise InputError(
        f'--family diffusers needs the diffusers library ({error}): pip install "diffsmooth-trt[hf]"'
    ) from error

WEIGHTS = "diffusion_pytorch_model.safetensors, diffusion_pytorch_model.bin"
SCHEDULER = "scheduler/scheduler_config.json"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
diffusers_logging.set_verbosity_error()


def _first(folder: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} has no {what}: expected one of {', '.join(names)} in it")


def read_folder(folder: Path, options: Mapping[str, object]) -> Diffusers:
    """The network in `folder`, a pipeline's (with unet/ and scheduler/) or a network's with scheduler_config.json.

    `options` may give `null_class`, the last label of a network trained with label dropout. Raises InputError for other
    folders, and for networks and schedulers without a timestep schedule.
    """
    if not folder.is_dir():
        raise InputError(
            f"checkpoint {folder} is no folder: --family diffusers takes the folder that the library saved"
        )
    config = _first(folder, ("unet/config.json", "config.json"), "network configuration")
    training = (
        folder.name.startswith("checkpoint-") and (folder.parent / SCHEDULER).is_file()
    )  # of the library's scripts
    scheduler = _first(
        folder.parent if training else folder, (SCHEDULER, "scheduler_config.json"), "scheduler configuration"
    )
    values = known_values("diffusers", {"null_class": None}, options)
    null_class = None if values["null_class"] is None else values.whole("null_class", 0)
    again = "save the model again"
    configs = {"network": read_object(config, again), "scheduler": read_object(scheduler, again)}
    check_depth(config, configs["network"])
    return Diffusers(folder, config.parent, configs, null_class)


def _schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule that the scheduler's configuration describes, as the library computes it."""
    name = str(config.get("_class_name", "the scheduler"))
    if "beta_schedule" not in config or config.get("use_karras_sigmas") or config.get("use_flow_sigmas"):
        raise InputError(
            f"{name} has no schedule of betas: expected one of DDPM's kind (beta_schedule linear, squaredcos_cap_v2, …)"
        )
    wanted = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    )
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise InputError(
            f"num_train_timesteps of {name} is {shown(steps)[:40]}, expected 1 to {MOST_STEPS}: save the scheduler again"
        )
    try:
        made = DDPMScheduler.from_config({key: config[key] for key in wanted if key in config})
    except (RuntimeError, *MALFORMED) as error:
        raise InputError(f"the configuration of {name} is not usable ({error}): save the scheduler again") from None
    bar = made.alphas_cumprod.double()
    if bar.ndim != 1:
        raise InputError(f"trained_betas of {name} are no list of numbers: save the scheduler again")
    if config.get("rescale_betas_zero_snr"):
        bar = bar[:-1]  # a last step without signal has no noise level
    return Schedule(f"diffusers {config['beta_schedule']}", len(bar), given=tuple(bar.tolist()))


class Diffusers(ScheduledFamily):
    """See `families.Family`."""

    name = "diffusers"
    labels_option = "num_class_embeds"

    def __init__(
        self, pipeline: Path, folder: Path, configs: dict[str, dict[str, Any]], null_class: int | None
    ) -> None:
        self.pipeline, self.folder, self.configs = pipeline, folder, configs
        self.key: str | None = None  # which of several weights
        network, scheduler = configs["network"], configs["scheduler"]
        kind = network.get("_class_name", "UNet2DModel")
        if kind != "UNet2DModel":
            raise InputError(f"{folder} holds a {kind}: expected a UNet2DModel, whose images are not latent")
        for name, given, known in (
            ("in_channels", network.get("in_channels", 3), (3,)),
            ("time_embedding_type", network.get("time_embedding_type", "positional"), ("positional",)),
            ("class_embed_type", network.get("class_embed_type"), (None,)),
            ("prediction_type", scheduler.get("prediction_type", "epsilon"), PREDICTIONS),
        ):
            if given not in known:
                raise InputError(f"{name} is {given!r} in {folder}: expected {' or '.join(map(str, known))}")
        widths, labels = network.get("block_out_channels", (0,) * 4), network.get("num_class_embeds")
        if not isinstance(widths, list | tuple) or not widths or not isinstance(labels, int | None):
            raise InputError(
                f"block_out_channels is {widths!r} and num_class_embeds {labels!r} in {folder}: expected a list of widths, and "
                "the number of labels or null"
            )
        self.prediction = scheduler.get("prediction_type", "epsilon")
        self.schedule = _schedule(scheduler)
        size = network.get("sample_size")
        self.image_size = size if isinstance(size, int) else 0
        self.labels, self.null_class = labels, null_class
        if null_class is not None and not (self.labels and null_class < self.labels):
            raise InputError(
                f"null_class must be one of the network's labels, got {null_class} with num_class_embeds {self.labels}"
            )

    def check_input_size(self, size: int) -> None:
        step = 2 ** (len(self.configs["network"].get("block_out_channels", (0,) * 4)) - 1)
        if size < step or size % step:
            raise InputError(
                f"image size {size} does not fit this network: it must be a multiple of {step}; give --image-size"
            )

    def network(self) -> nn.Module:
        net: nn.Module = UNet2DModel.from_config(self.configs["network"])
        return net

    def load(self, checkpoint: Source, key: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
        self.key = key
        weights, said = self._weights()
        check_same_network(weights, self.configs["network"])
        try:
            net, info = UNet2DModel.from_pretrained(
                weights.folder,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=".safetensors" in weights.file.suffixes,
                variant=weights.variant,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # the library's, safetensors' and torch's own families of exceptions
            raise InputError(
                f"{weights.file} does not fit its config.json or is damaged ({' '.join(str(error).split())[:160]}): "
                "fetch or save it again"
            ) from None
        problems = [f"{len(names)} {kind} ({', '.join(map(str, names[:3]))})" for kind, names in info.items() if names]
        if problems:
            raise InputError(f"{weights.file} does not fit its config.json: {'; '.join(problems)}: save both again")
        net.requires_grad_(False)
        loaded: nn.Module = net.eval()
        return loaded, said

    def _weights(self) -> tuple[Weights, dict[str, Any]]:
        """Those that `key` names or that are meant, and what the facts say of the choice."""
        found = weights_in(self.folder, self.pipeline)
        if not found:
            raise InputError(f"{self.folder} has no file of parameters: expected one of {WEIGHTS} in it")
        return choose(str(self.pipeline), found, self.key)

    def source_sha256(self, checkpoint: Source) -> str:
        return files_sha256(weight_files(self._weights()[0].file))

    def recorded(self) -> dict[str, Any]:
        return {**self.configs, "null_class": self.null_class}

    def answer(self, net: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        answer: Tensor = net(x, noise, class_labels=labels, return_dict=False)[0][:, : x.shape[1]]
        return answer

    def folded(self, net: nn.Module, level: Level, gain: float, out: float) -> nn.Module:
        label = self.folded_label()
        time = torch.tensor([level.noise_input], dtype=torch.float64).float()
        emb = embedding(net, time, None if label is None else torch.tensor([label]))
        return FoldedUNet2D(net, emb, gain, out)

    def by_row(self, net: nn.Module) -> nn.Module:
        return ConditionalUNet2D(net)
