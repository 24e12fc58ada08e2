"""EDM's networks: names and answers of the published code, and the fast form's agreement with the plain one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.graph.one_shot import (  # noqa: E402
    ConditionalDenoiser,
    OneShotDenoiser,
    SourceConditional,
    SourceDenoiser,
)
from diffsmooth_trt.exporting.sources.checkpoints import load_into  # noqa: E402
from diffsmooth_trt.exporting.sources.edm import Edm  # noqa: E402
from diffsmooth_trt.nets.edm import NAMED, named_options, parse_options  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
_spec = importlib.util.spec_from_file_location("edm_parameters", DATA / "edm_parameters.py")
known = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(known)
ANSWERS = json.loads((DATA / "edm_known_answers.json").read_text())


def made(name):
    """(family, network with the known answers' parameters)."""
    family = Edm(parse_options(known.NETWORKS[name]))
    net = family.network()
    load_into(net, _given(net))
    return family, net.eval()


def _given(net):
    """Parameters are drawn by their published name, which starts with `model.`."""
    drawn = known.parameters({f"model.{name}": tensor for name, tensor in net.state_dict().items()})
    return {name.removeprefix("model."): tensor for name, tensor in drawn.items()}


@pytest.mark.parametrize("name", list(known.NETWORKS))
def test_known_answers_of_the_published_code(name):
    family, net = made(name)
    shapes = {f"model.{key}": list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert shapes == ANSWERS[name]["parameters"]
    labels = torch.tensor([3 if label is None else label for label in known.LABELS])
    denoise = SourceConditional(family, net)
    with torch.no_grad():
        out = denoise(known.images(), torch.tensor(known.LEVELS), labels if family.labels else None)
    torch.testing.assert_close(out.flatten()[::5], torch.tensor(ANSWERS[name]["denoised"]), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", list(known.NETWORKS))
def test_the_fast_forms_answer_as_the_plain_ones(name):
    family, net = made(name)
    noisy = (known.images() + 1) / 2
    with torch.no_grad():
        level = family.level(0.25, False)
        got, want = (form(family, net, level)(noisy) for form in (OneShotDenoiser, SourceDenoiser))
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)
        assert want.std() > 0.1
        if not family.labels:
            return
        s, labels = torch.tensor([1e-4, 0.5, 3.0]), torch.tensor([0, 2, 3])
        got, want = (form(family, net)(noisy, s, labels) for form in (ConditionalDenoiser, SourceConditional))
        torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "parameters", "labels"),
    [(name, 56_500_000 if "ve" in name.split("-") else 55_700_000, "uncond" not in name) for name in NAMED],
)
def test_published_configurations(name, parameters, labels):
    family = Edm(named_options(name))
    with torch.device("meta"):
        net = family.network()
    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(parameters, rel=0.01)
    assert (family.null_class == 10) == labels and family.image_size == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 33}, "image size 33 does not fit this network: it must be a multiple of 8"),
        ({"model_channels": 30}, "gives 30 channels: expected a multiple of 32, or of 4 below 128"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter must have an even number of taps"),
        ({"model_type": "DhariwalUNet"}, "option model_type must be one of SongUNet, got 'DhariwalUNet'"),
        ({"img_channels": 1}, "img_channels is 1: images have 3 channels"),
        ({"encoder_type": "dense"}, "encoder_type must be one of standard, skip, residual"),
        ({"num_channels": 32}, "option 'num_channels' is unknown to edm: the known ones are"),
        ({"sigma_data": 0}, "sigma_data must be above 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        parse_options(options)


def test_every_noise_level_is_its_own_timestep():
    with pytest.raises(InputError, match="fractional_timestep is for schedules"):
        Edm(parse_options({})).level(0.25, True)
