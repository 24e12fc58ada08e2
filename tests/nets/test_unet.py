"""The UNet against a plain restatement of it, its published parameter lists, and pinned answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state  # noqa: E402
from diffsmooth_trt.nets.options import NAMED, named_options, parse_options  # noqa: E402
from diffsmooth_trt.nets.unet import UNet, timestep_embedding  # noqa: E402

DATA = Path(__file__).parent.parent / "data"

IMPROVED: dict[str, Any] = {
    "width": 128,
    "mult": (1, 2, 2, 2),
    "blocks": 3,
    "attend": (1, 2),
    "heads": 4,
    "out_channels": 6,
}
GUIDED: dict[str, Any] = {
    "width": 256,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 2,
    "attend": (3, 4, 5),
    "head_channels": 64,
    "updown": True,
    "out_channels": 6,
}
ZOO: dict[str, Any] = {
    "width": 32,
    "mult": (1, 2, 4),
    "blocks": 1,
    "attend": (2,),
    "conv_resample": False,
    "classes": 11,
}


@pytest.mark.parametrize(
    ("name", "expected", "millions"),
    [("cifar10_uncond_50M_500K", IMPROVED, 52.5), ("256x256_diffusion_uncond", GUIDED, 552.8), ("zoo", ZOO, 2.63)],
)
def test_named_networks_have_the_published_parameters(
    plain: ModuleType, name: str, expected: dict[str, Any], millions: float
) -> None:
    with torch.device("meta"):
        state = named_options(name).network().state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == plain.shapes(**expected)
    assert sum(tensor.numel() for tensor in state.values()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_every_built_in_name_is_checked() -> None:
    assert set(NAMED) == {"cifar10_uncond_50M_500K", "256x256_diffusion_uncond", "zoo"}


def random_network(seed: int, **options: Any) -> UNet:
    torch.manual_seed(seed)
    net = UNet(in_channels=3, model_channels=32, num_res_blocks=1, attention_at=(2,), channel_mult=(1, 2), **options)
    for parameter in net.parameters():  # the zero initialisation of the last layers would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.double().eval()


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(("updown", "conv_resample"), [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("label", [None, 4])
def test_forward_is_the_papers_formula(
    plain: ModuleType, new_order: bool, scale_shift: bool, updown: bool, conv_resample: bool, label: int | None
) -> None:
    net = random_network(
        3,
        out_channels=6,
        heads=2,
        num_classes=None if label is None else 5,
        scale_shift=scale_shift,
        resblock_updown=updown,
        conv_resample=conv_resample,
        new_attention_order=new_order,
    )
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    want = plain.forward(
        net.state_dict(), x, 17.25, label=label, scale_shift=scale_shift, conv_resample=conv_resample,
        new_order=new_order, width=32, mult=(1, 2), blocks=1, attend=(1,), heads=2, updown=updown,
    )  # fmt: skip
    net.time_embed.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))  # waves are float32
    with torch.no_grad():
        got = net(x, torch.tensor([17.25, 17.25]), None if label is None else torch.tensor([label, label]))
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * float(want.abs().max()))


def test_labels_must_fit_the_network() -> None:
    with pytest.raises(ValueError, match="labels"):
        random_network(0, out_channels=3).embedding(torch.zeros(1), torch.tensor([0]))


def test_odd_embedding_width_ends_in_zero() -> None:
    assert timestep_embedding(torch.tensor([3.0]), 7).shape == (1, 7)
    assert timestep_embedding(torch.tensor([3.0]), 7)[0, -1] == 0


def known_answers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("known", DATA / "make_denoiser_known_answers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_known_answers() -> None:
    """Pinned float64 values; the float32 network has to reach them to 2e-5."""
    pinned = json.loads((DATA / "denoiser_known_answers.json").read_text(encoding="utf-8"))
    image = known_answers().image().float()
    state = load_state(DATA / "denoiser_known_answers.pt")
    for case in pinned["cases"]:
        options = {**pinned["options"], "use_new_attention_order": case["new_order"]}
        net = parse_options("guided-diffusion", options).network()
        load_into(net, state)
        with torch.no_grad():
            out = net.eval()(image, torch.tensor([case["time"]]), torch.tensor([case["label"]]))
        got = out.flatten()[:: pinned["stride"]]
        torch.testing.assert_close(got, torch.tensor(case["values"]), rtol=0, atol=2e-5)
        assert float(out.square().mean().sqrt()) == pytest.approx(case["rms"], abs=1e-5)


def test_known_answers_are_what_their_generator_makes() -> None:
    made = known_answers().parameters()
    stored = load_state(DATA / "denoiser_known_answers.pt")
    assert set(made) == set(stored)
    assert all(torch.equal(made[name].float(), stored[name]) for name in made)
    assert (DATA / "denoiser_known_answers.pt").stat().st_size < 150_000


def test_head_width_and_head_count_say_the_same() -> None:
    by_count = random_network(1, out_channels=3, heads=2)
    by_width = UNet(
        in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, attention_at=(2,), channel_mult=(1, 2),
        head_channels=32,
    ).double().eval()  # fmt: skip
    by_width.load_state_dict(by_count.state_dict())
    x, emb = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.randn(1, 128, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(by_count.torso(x, emb), by_width.torso(x, emb))
