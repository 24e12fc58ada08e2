"""Options: the families' names and defaults, typed; everything else is an error that says what is known."""

from __future__ import annotations

from typing import Any

import pytest

from diffsmooth_trt.errors import InputError
from diffsmooth_trt.nets.options import FAMILIES, named_options, parse_options
from diffsmooth_trt.schedule import Schedule


def test_defaults_are_the_families_own() -> None:
    improved = parse_options("improved-diffusion", {"image_size": 32})
    assert improved.channel_mult == (1, 2, 2, 2)
    assert improved.attention_at == (2, 4)
    assert improved.schedule == Schedule("linear", 1000, rescale=True)
    guided = parse_options("guided-diffusion", {})
    assert guided.image_size == 64
    assert guided.channel_mult == (1, 2, 3, 4)
    assert guided.attention_at == (4, 8)
    assert guided.schedule == Schedule("linear", 1000, rescale=False)
    assert (guided.num_channels, guided.num_res_blocks, guided.num_heads) == (128, 2, 4)
    assert parse_options("guided-diffusion", {"image_size": 512}).channel_mult == (0.5, 1, 1, 2, 2, 4, 4)
    assert parse_options("guided-diffusion", {"class_cond": True}).num_classes == 1000


def test_published_configurations() -> None:
    cifar = named_options("cifar10_uncond_50M_500K")
    assert cifar.schedule == Schedule("cosine", 4000, rescale=True)
    assert cifar.learn_sigma
    assert cifar.use_scale_shift_norm
    imagenet = named_options("256x256_diffusion_uncond")
    assert imagenet.schedule == Schedule("linear", 1000)
    assert imagenet.attention_at == (8, 16, 32)
    assert imagenet.resblock_updown
    assert imagenet.num_head_channels == 64
    assert imagenet.downsampling == 32
    imagenet.check_input_size(224)
    assert named_options("zoo").null_class == 10


def test_a_command_lines_strings_are_read() -> None:
    options = {"image_size": "32", "learn_sigma": "True", "dropout": "0.3", "channel_mult": "1,2", "use_fp16": "no"}
    parsed = parse_options("guided-diffusion", {**options, "attention_resolutions": "16, 8"})
    assert parsed.learn_sigma
    assert parsed.dropout == 0.3
    assert parsed.channel_mult == (1, 2)
    assert parsed.attention_at == (2, 4)
    assert parse_options("guided-diffusion", {"channel_mult": [1, 2], "attention_resolutions": [8]}).channel_mult == (
        1,
        2,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_sizes": 32}, "'image_sizes' is unknown to guided-diffusion: the known ones are attention_resolutions"),
        ({"image_size": 32}, "channel_mult is missing"),
        ({"image_size": 36, "channel_mult": "1,1,1,1"}, "image size 36 does not fit this network: .* multiple of 8"),
        ({"num_channels": 48}, "multiple of 32"),
        ({"num_heads": 3}, "cannot be split by 3"),
        ({"num_head_channels": 0}, "cannot be split by 0"),
        ({"num_heads_upsample": 5}, "cannot be split by 5"),
        ({"learn_sigma": "maybe"}, "learn_sigma must be true or false"),
        ({"learn_sigma": 2}, "learn_sigma must be true or false"),
        ({"num_res_blocks": 1.5}, "num_res_blocks must be a whole number"),
        ({"num_channels": "many"}, "num_channels must be a number"),
        ({"num_channels": True}, "num_channels must be a number"),
        ({"attention_resolutions": 16}, "attention_resolutions must be a list"),
        ({"attention_resolutions": "0"}, "attention_resolutions must be a whole number of at least 1"),
        ({"noise_schedule": "sigmoid"}, "noise schedule 'sigmoid' is unknown"),
        ({"num_classes": 10}, "num_classes is given for a network without labels"),
        ({"null_class": 0}, "null_class must be one of"),
        ({"class_cond": True, "num_classes": 10, "null_class": 10}, "null_class must be one of"),
    ],
)
def test_unusable_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_options("guided-diffusion", options)
    assert "\n" not in str(caught.value)


def test_improved_diffusion_does_not_know_the_later_options() -> None:
    with pytest.raises(InputError, match="unknown to improved-diffusion"):
        parse_options("improved-diffusion", {"resblock_updown": True})


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(FAMILIES)):
        parse_options("edm", {})
    with pytest.raises(InputError, match="cifar10_uncond_50M_500K"):
        named_options("cifar11")
