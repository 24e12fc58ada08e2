"""EDM networks (Karras et al. 2022) from the options of their training script, and the published configurations by name.

Option names are those of EDM's `SongUNet` and of its preconditioning; `img_channels` is always 3. Published checkpoints are
pickles that hold code: what is read here are their parameters, saved as a state dict or as safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .values import known_values

if TYPE_CHECKING:
    from .songunet import SongUNet

FAMILY = "edm"
_DEFAULTS: dict[str, object] = {
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 0,
    "augment_dim": 0,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.10,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
    "sigma_data": 0.5,
    "model_type": "SongUNet",
    "label_dropout": 0.0,
    # Without influence on denoising.
    "use_fp16": False,
    "sigma_min": 0.0,
    "sigma_max": None,
}
_DDPMPP: dict[str, object] = {"augment_dim": 9, "dropout": 0.13, "channel_mult": [2, 2, 2]}
_NCSNPP: dict[str, object] = {
    **_DDPMPP,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
_NAMED: dict[str, dict[str, object]] = {
    "edm-cifar10-32x32-cond-vp": {**_DDPMPP, "label_dim": 10},
    "edm-cifar10-32x32-cond-ve": {**_NCSNPP, "label_dim": 10},
    "edm-cifar10-32x32-uncond-vp": _DDPMPP,
    "edm-cifar10-32x32-uncond-ve": _NCSNPP,
}
NAMED = tuple(_NAMED)


@dataclass(frozen=True)
class EdmOptions:
    """One EDM network, validated; fields are named as EDM's options."""

    img_resolution: int
    label_dim: int
    augment_dim: int
    model_channels: int
    channel_mult: tuple[int, ...]
    channel_mult_emb: int
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    dropout: float
    embedding_type: str
    channel_mult_noise: int
    encoder_type: str
    decoder_type: str
    resample_filter: tuple[float, ...]
    sigma_data: float
    label_dropout: float  # in training; above 0 it learnt to do without a class

    def __post_init__(self) -> None:
        for width in (self.model_channels, *(self.model_channels * mult for mult in self.channel_mult)):
            if width < 4 or width % min(32, width // 4):
                raise InputError(
                    f"model_channels × channel_mult gives {width} channels: expected a multiple of 32, or of 4 below 128"
                )
        if self.model_channels * self.channel_mult_noise % 2 or self.model_channels * self.channel_mult_noise < 4:
            raise InputError(f"model_channels × channel_mult_noise must be even, got {self.model_channels}")
        if len(self.resample_filter) % 2 or not sum(self.resample_filter):
            raise InputError(f"resample_filter must have an even number of taps, got {list(self.resample_filter)}")
        if not self.sigma_data > 0:
            raise InputError(f"sigma_data must be above 0, got {self.sigma_data}: 0.5 is EDM's")
        self.check_input_size(self.img_resolution)

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

    def network(self) -> SongUNet:
        """The network F, its parameters freshly initialised (on torch's current default device)."""
        from .songunet import SongUNet

        return SongUNet(
            img_resolution=self.img_resolution,
            channels=3,
            label_dim=self.label_dim,
            augment_dim=self.augment_dim,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            channel_mult_emb=self.channel_mult_emb,
            num_blocks=self.num_blocks,
            attn_resolutions=self.attn_resolutions,
            dropout=self.dropout,
            embedding_type=self.embedding_type,
            channel_mult_noise=self.channel_mult_noise,
            encoder_type=self.encoder_type,
            decoder_type=self.decoder_type,
            resample_filter=self.resample_filter,
        )


def named_options(name: str) -> EdmOptions:
    """The published configuration `name`, one of `NAMED`."""
    return parse_options(_NAMED[name])


def parse_options(options: Mapping[str, object]) -> EdmOptions:
    """Typed options of an EDM network; InputError for unknown names, wrong types and networks that could not be built."""
    values = known_values(FAMILY, _DEFAULTS, options)
    values.choice("model_type", ("SongUNet",))
    if values.whole("img_channels", 1) != 3:
        raise InputError(f"img_channels is {values['img_channels']}: images have 3 channels")
    values.flag("use_fp16")
    values.number("sigma_min")
    return EdmOptions(
        img_resolution=values.whole("img_resolution", 1),
        label_dim=values.whole("label_dim", 0),
        augment_dim=values.whole("augment_dim", 0),
        model_channels=values.whole("model_channels", 4),
        channel_mult=values.wholes("channel_mult"),
        channel_mult_emb=values.whole("channel_mult_emb", 1),
        num_blocks=values.depth("num_blocks"),
        attn_resolutions=values.wholes("attn_resolutions"),
        dropout=values.number("dropout"),
        embedding_type=values.choice("embedding_type", ("positional", "fourier")),
        channel_mult_noise=values.whole("channel_mult_noise", 1),
        encoder_type=values.choice("encoder_type", ("standard", "skip", "residual")),
        decoder_type=values.choice("decoder_type", ("standard", "skip")),
        resample_filter=values.numbers("resample_filter"),
        sigma_data=values.number("sigma_data"),
        label_dropout=values.number("label_dropout"),
    )
