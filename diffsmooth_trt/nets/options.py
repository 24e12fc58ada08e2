"""Denoiser networks from the options their families' own scripts use, and the published configurations by name.

Option names and defaults are those of improved-diffusion (Nichol & Dhariwal 2021) and guided-diffusion (Dhariwal & Nichol
2021), so that a published command line can be copied into a JSON file. Additions of this package: `channel_mult` for
improved-diffusion, `conv_resample`, `num_classes`, and `null_class`, the label that stands for "no class".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..schedule import Schedule
from .values import Values, known_values

if TYPE_CHECKING:
    from .unet import UNet

GROUPS = 32  # of every GroupNorm in these networks

_SHARED: dict[str, object] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "learn_sigma": False,
    "use_scale_shift_norm": True,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "conv_resample": True,
    "num_classes": None,
    "null_class": None,
    # Without influence on one-shot denoising: they steer training, sampling or memory.
    "timestep_respacing": "",
    "use_kl": False,
    "sigma_small": False,
    "use_checkpoint": False,
}
_DEFAULTS: dict[str, dict[str, object]] = {
    "improved-diffusion": {**_SHARED, "rescale_timesteps": True, "rescale_learned_sigmas": True},
    "guided-diffusion": {
        **_SHARED,
        "num_head_channels": -1,
        "resblock_updown": False,
        "use_new_attention_order": False,
        "use_fp16": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
    },
}
_MULTIPLIERS: dict[str, dict[int, tuple[float, ...]]] = {
    "improved-diffusion": {256: (1, 1, 2, 2, 4, 4), 64: (1, 2, 3, 4), 32: (1, 2, 2, 2)},
    "guided-diffusion": {
        512: (0.5, 1, 1, 2, 2, 4, 4),
        256: (1, 1, 2, 2, 4, 4),
        128: (1, 1, 2, 3, 4),
        64: (1, 2, 3, 4),
    },
}
FAMILIES = tuple(_DEFAULTS)

_NAMED: dict[str, tuple[str, dict[str, object]]] = {
    "cifar10_uncond_50M_500K": (
        "improved-diffusion",
        {
            "image_size": 32,
            "num_channels": 128,
            "num_res_blocks": 3,
            "learn_sigma": True,
            "dropout": 0.3,
            "diffusion_steps": 4000,
            "noise_schedule": "cosine",
        },
    ),
    "256x256_diffusion_uncond": (
        "guided-diffusion",
        {
            "image_size": 256,
            "num_channels": 256,
            "num_res_blocks": 2,
            "num_head_channels": 64,
            "attention_resolutions": "32,16,8",
            "learn_sigma": True,
            "resblock_updown": True,
            "diffusion_steps": 1000,
            "noise_schedule": "linear",
        },
    ),
    "zoo": (
        "guided-diffusion",
        {
            "image_size": 32,
            "num_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": "1,2,4",
            "attention_resolutions": "8",
            "conv_resample": False,
            "class_cond": True,
            "num_classes": 11,
            "null_class": 10,
            "diffusion_steps": 4000,
            "noise_schedule": "cosine",
            "rescale_timesteps": True,
        },
    ),
}
NAMED = tuple(_NAMED)


@dataclass(frozen=True)
class DenoiserOptions:
    """One ε-network and its schedule, validated. `attention_at` holds down-sampling rates; images have 3 channels."""

    family: str
    image_size: int
    num_channels: int
    num_res_blocks: int
    channel_mult: tuple[float, ...]
    attention_at: tuple[int, ...]
    num_heads: int
    num_heads_upsample: int
    num_head_channels: int
    dropout: float
    num_classes: int | None
    null_class: int | None
    learn_sigma: bool
    use_scale_shift_norm: bool
    resblock_updown: bool
    use_new_attention_order: bool
    conv_resample: bool
    predict_xstart: bool
    schedule: Schedule

    def __post_init__(self) -> None:
        widths = [int(mult * self.num_channels) for mult in self.channel_mult]
        for width in widths:
            if width < GROUPS or width % GROUPS:
                raise InputError(
                    f"num_channels × channel_mult gives {width} channels: every level needs a multiple of {GROUPS}"
                )
        attended = [w for level, w in enumerate(widths) if 2**level in self.attention_at] + [widths[-1]]
        divisors = [self.num_head_channels] if self.num_head_channels != -1 else [self.num_heads]
        if self.num_head_channels == -1 and self.num_heads_upsample != -1:
            divisors.append(self.num_heads_upsample)
        for divisor in divisors:
            if divisor < 1 or any(width % divisor for width in attended):
                raise InputError(
                    f"attention over {sorted(set(attended))} channels cannot be split by {divisor}: "
                    "change num_heads, num_heads_upsample or num_head_channels"
                )
        if self.null_class is not None and not (self.num_classes and 0 <= self.null_class < self.num_classes):
            raise InputError(
                f"null_class must be one of the network's labels 0…num_classes-1 with class_cond true, "
                f"got {self.null_class} with num_classes {self.num_classes}"
            )
        self.check_input_size(self.image_size)

    @property
    def downsampling(self) -> int:
        """How much smaller the innermost feature map is than the image, a power of two."""
        return int(2 ** (len(self.channel_mult) - 1))

    def check_input_size(self, size: int) -> None:
        """Raise InputError unless images of `size` × `size` pixels fit the network (it is fully convolutional)."""
        if size < self.downsampling or size % self.downsampling:
            raise InputError(
                f"image size {size} does not fit this network: it must be a multiple of {self.downsampling}"
            )

    def network(self) -> UNet:
        """The network, its parameters freshly initialised (on torch's current default device)."""
        from .unet import UNet

        return UNet(
            in_channels=3,
            model_channels=self.num_channels,
            out_channels=6 if self.learn_sigma else 3,
            num_res_blocks=self.num_res_blocks,
            attention_at=self.attention_at,
            channel_mult=self.channel_mult,
            dropout=self.dropout,
            conv_resample=self.conv_resample,
            num_classes=self.num_classes,
            heads=self.num_heads,
            head_channels=self.num_head_channels,
            heads_upsample=self.num_heads_upsample,
            scale_shift=self.use_scale_shift_norm,
            resblock_updown=self.resblock_updown,
            new_attention_order=self.use_new_attention_order,
        )


def named_options(name: str) -> DenoiserOptions:
    """The built-in configuration `name`, one of `NAMED`; InputError otherwise."""
    if name not in _NAMED:
        raise InputError(f"configuration {name!r} is unknown: use a JSON file or one of {', '.join(NAMED)}")
    family, options = _NAMED[name]
    return parse_options(family, options)


def unet_from_options(family: str, options: Mapping[str, object]) -> UNet:
    """The network of `parse_options(family, options)`."""
    return parse_options(family, options).network()


def parse_options(family: str, options: Mapping[str, object]) -> DenoiserOptions:
    """Typed options of a denoiser.

    `family` is one of `FAMILIES`; `options` maps the family's option names to JSON values or to the strings of a
    command line; what is missing takes the family's default. Raises InputError for unknown families and names, values
    of the wrong type and networks that could not be built.
    """
    if family not in _DEFAULTS:
        raise InputError(f"denoiser family {family!r} is unknown: use one of {', '.join(FAMILIES)}")
    defaults = _DEFAULTS[family]
    values = known_values(family, defaults, options)
    for name in ("use_kl", "sigma_small", "use_checkpoint", "rescale_learned_sigmas"):
        values.flag(name)
    image_size = values.whole("image_size", 1)
    class_cond = values.flag("class_cond")
    num_classes = None
    if class_cond:
        num_classes = 1000 if values["num_classes"] is None else values.whole("num_classes", 1)
    elif values["num_classes"] is not None:
        raise InputError("num_classes is given for a network without labels: set class_cond true or leave it out")
    guided = family == "guided-diffusion"
    return DenoiserOptions(
        family=family,
        image_size=image_size,
        num_channels=values.whole("num_channels", 1),
        num_res_blocks=values.depth("num_res_blocks"),
        channel_mult=_multipliers(family, image_size, values),
        attention_at=tuple(image_size // r for r in values.wholes("attention_resolutions")),
        num_heads=values.whole("num_heads", 1),
        num_heads_upsample=values.whole("num_heads_upsample", -1),
        num_head_channels=values.whole("num_head_channels", -1) if guided else -1,
        dropout=values.number("dropout"),
        num_classes=num_classes,
        null_class=None if values["null_class"] is None else values.whole("null_class", 0),
        learn_sigma=values.flag("learn_sigma"),
        use_scale_shift_norm=values.flag("use_scale_shift_norm"),
        resblock_updown=guided and values.flag("resblock_updown"),
        use_new_attention_order=guided and values.flag("use_new_attention_order"),
        conv_resample=values.flag("conv_resample"),
        predict_xstart=values.flag("predict_xstart"),
        schedule=Schedule(
            str(values["noise_schedule"]),
            values.whole("diffusion_steps", 1),
            values.flag("rescale_timesteps"),
        ),
    )


def _multipliers(family: str, image_size: int, values: Values) -> tuple[float, ...]:
    given = values["channel_mult"]
    if given not in ("", None):
        return values.numbers("channel_mult")
    known = _MULTIPLIERS[family]
    if image_size not in known:
        sizes = ", ".join(str(size) for size in sorted(known))
        raise InputError(
            f"channel_mult is missing: {family} has a default for image_size {sizes}, not for {image_size}"
        )
    return known[image_size]
