"""Checkpoints of every family in every usual container: they load, are refused by name, or ask which weights are meant."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="reads safetensors")

from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting.classifier import load_known  # noqa: E402
from diffsmooth_trt.exporting.denoiser import read_family  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state, read_checkpoint  # noqa: E402
from diffsmooth_trt.nets.classifiers import classifier_from_arch  # noqa: E402
from diffsmooth_trt.nets.detector import Detector, detector_for, detector_state  # noqa: E402

State = dict[str, Any]
UNET: State = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,1", "attention_resolutions": "4",
}  # fmt: skip
EDM: State = {
    "img_resolution": 8,
    "model_channels": 16,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [4],
}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def optimizer(state: State) -> State:
    moments = {number: {"step": torch.tensor(1.0), "exp_avg": tensor} for number, tensor in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}


def undotted(state: State) -> State:
    """What LitEma and MMCV make of names."""
    return {name.replace(".", ""): tensor for name, tensor in state.items() if "running" not in name}


# Each holds the weights that are meant (first argument), and may hold raw ones beside them; then what takes the raw ones.
CONTAINERS: dict[str, tuple[Callable[[State, State], Any], str | None]] = {
    "plain": (lambda meant, _: meant, None),
    "DataParallel": (lambda meant, _: prefixed("module.", meant), None),
    "torch.compile under FSDP": (lambda meant, _: prefixed("_orig_mod._fsdp_wrapped_module.", meant), None),
    "Cohen's": (lambda meant, _: {"epoch": 9, "arch": "x", "state_dict": prefixed("1.module.", meant)}, None),
    "pytorch-cifar": (lambda meant, _: {"net": prefixed("module.", meant), "acc": 95.3, "epoch": 9}, None),
    "Lightning": (
        lambda meant, _: {
            "state_dict": prefixed("model.", meant), "optimizer_states": [optimizer(meant)], "callbacks": {"m": {"best": None}},
        },
        None,
    ),
    "Lightning's WeightAveraging": (
        lambda meant, raw: {"state_dict": prefixed("net.", meant), "current_model_state": prefixed("net.", raw)},
        "current_model_state",
    ),
    "AveragedModel": (lambda meant, _: {"n_averaged": torch.tensor(7), **prefixed("module.", meant)}, None),
    "timm": (
        lambda meant, raw: {
            "epoch": 9, "arch": "x", "state_dict": raw, "state_dict_ema": meant, "optimizer": optimizer(raw), "version": 2,
        },
        "state_dict",
    ),
    "ConvNeXt": (lambda meant, raw: {"model": raw, "model_ema": meant, "scaler": {"scale": 1.0}}, "model"),
    "mmengine": (
        lambda meant, raw: {"meta": {"epoch": 1}, "state_dict": raw, "ema_state_dict": prefixed("module.", meant)},
        "state_dict",
    ),
    "adversarial_robustness_pytorch": (
        lambda meant, raw: {"model_state_dict": prefixed("module.", raw), "ema_model_state_dict": prefixed("module.", meant)},
        "model_state_dict",
    ),
    "ema with its decay": (lambda meant, raw: {"model": raw, "ema": {"decay": 0.999, "state_dict": meant}}, "model"),
    "BasicSR": (lambda meant, raw: {"params": raw, "params_ema": meant}, "params"),
    "ema-pytorch in a Trainer": (
        lambda meant, raw: {
            "step": 9, "model": raw, "opt": optimizer(raw),
            "ema": {
                "initted": torch.tensor(True), "step": torch.tensor([9]),
                **prefixed("online_model.", raw), **prefixed("ema_model.", meant),
            },
        },
        "model",
    ),
    "LitEma": (
        lambda meant, raw: {
            "state_dict": {
                **prefixed("model.", raw), "model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(3),
                **prefixed("model_ema.", undotted(meant)),
            }
        },
        "state_dict.model",
    ),
    "MMCV": (
        lambda meant, raw: {
            "state_dict": {**raw, **{f"ema_{name.replace('.', '_')}": tensor for name, tensor in meant.items()}}
        },
        "state_dict",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred numbers are not worth more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timm_network() -> tuple[Any, Callable[[Path, str | None], State]]:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    from diffsmooth_trt.exporting.sources.timm import load_timm

    net = timm.create_model("test_vit", num_classes=3)
    return net, lambda path, key: dict(load_timm("timm/test_vit", path, key).net.state_dict())


def hugging_face_folder() -> tuple[Any, Callable[[Path, str | None], State]]:
    transformers = pytest.importorskip("transformers", reason="reads folders through transformers")
    from diffsmooth_trt.exporting.graph.preprocessing import Overrides
    from diffsmooth_trt.exporting.sources.transformers import load_folder

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)

    def load(path: Path, key: str | None) -> State:
        config.save_pretrained(path)
        state = load_folder(path, Overrides(input_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)).net.state_dict()
        return {name.removeprefix("model."): tensor for name, tensor in state.items()}

    return transformers.ViTForImageClassification(config), load


def diffusers_folder() -> tuple[Any, Callable[[Path, str | None], State]]:
    diffusers = pytest.importorskip("diffusers", reason="the folders are the diffusers library's")
    from diffsmooth_trt.exporting.sources.diffusers import read_folder

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}
    net = diffusers.UNet2DModel(8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)

    def load(path: Path, key: str | None) -> State:
        net.save_config(path)
        diffusers.DDPMScheduler().save_config(path)
        return dict(read_folder(path, {}).load(path, key)[0].state_dict())

    return net, load


LIBRARIES = {"timm": timm_network, "hf": hugging_face_folder, "diffusers": diffusers_folder}
STEMS = {"diffusers": "diffusion_pytorch_model"}


@functools.cache
def small(family: str) -> tuple[Any, Callable[[Path, str | None], State]]:
    """A network of the family with random weights, and what loads a checkpoint of it and returns its parameters."""
    torch.manual_seed(3)
    if family in LIBRARIES:
        return LIBRARIES[family]()
    if family == "detector":
        net = Detector((2, 3, 3, 4), 8)

        def load(path: Path, key: str | None) -> State:
            state = detector_state(load_state(path, key))
            empty = detector_for(state, 8)
            load_into(empty, state)
            return dict(empty.state_dict())

        return net, load
    if family in ("improved-diffusion", "guided-diffusion", "edm"):
        options = EDM if family == "edm" else UNET
        with torch.device("cpu"):
            net = read_family(family, options, "net.pt").network()
        return net, lambda path, key: dict(read_family(family, options, path).load(path, key)[0].state_dict())
    return classifier_from_arch(family).module, lambda path, key: dict(load_known(family, path, key).net.state_dict())


def weights(net: Any) -> tuple[State, State]:
    """(meant, raw): both whole state dicts, with the same statistics of norms, which averages are not kept of."""
    raw = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = ("running", "num_batches", "resample_filter")
    return {n: t if any(part in n for part in kept) else t + 1 for n, t in raw.items()}, raw


def same(found: State, wanted: State) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


FAMILIES = ("timm", "guided-diffusion", "edm", "detector", "resnet20", "wrn-10-1")
ALIKE = ("improved-diffusion", "cifar_resnet20")  # by the same code as two of those: a few containers tell


@pytest.mark.parametrize(
    ("family", "container"),
    [(family, container) for family in FAMILIES for container in CONTAINERS]
    + [(family, container) for family in ALIKE for container in ("Cohen's", "timm", "LitEma")],
)
def test_every_family_loads_from_every_container(tmp_path: Path, family: str, container: str) -> None:
    """Averaged weights by default, the others under their key; and which ones they were is recorded."""
    net, load = small(family)
    meant, raw = weights(net)
    make, other = CONTAINERS[container]
    torch.save(make(meant, raw), tmp_path / "c.pt")
    assert same(load(tmp_path / "c.pt", None), meant)
    choice = read_checkpoint(tmp_path / "c.pt").choice
    if other is not None:
        assert same(load(tmp_path / "c.pt", other), raw)
        assert choice.recorded()["weights_of"]["key"] == choice.key
        assert other in choice.others
        assert choice.averaged or choice.key == "state_dict"


@pytest.mark.parametrize("family", [*FAMILIES, "hf", "diffusers"])
@pytest.mark.parametrize(
    ("kind", "given"), [("safetensors", "index"), ("bin", "index"), ("safetensors", "folder"), ("bin", "folder")]
)
def test_every_family_loads_from_shards(tmp_path: Path, family: str, kind: str, given: str) -> None:
    """The index of several files, or the folder that accelerate saved, with an optimizer beside; of libraries' folders both."""
    net, load = small(family)
    state, _ = weights(net)
    save = safetensors_torch.save_file if kind == "safetensors" else torch.save
    stem = STEMS.get(family, "model" if kind == "safetensors" else "pytorch_model")
    torch.save(optimizer(state), tmp_path / "optimizer.bin")
    path = tmp_path / f"{stem}.{kind}"
    if given == "index":
        names = list(state)
        shards = {f"{stem}-00001-of-00002.{kind}": names[::2], f"{stem}-00002-of-00002.{kind}": names[1::2]}
        for shard, held in shards.items():
            save({name: state[name] for name in held}, tmp_path / shard)
        path = tmp_path / f"{stem}.{kind}.index.json"
        weight_map = {name: shard for shard, held in shards.items() for name in held}
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    else:
        save(state, path)
    assert same(load(tmp_path if given == "folder" or family in ("hf", "diffusers") else path, None), state)


@pytest.mark.parametrize("arch", ["resnet50", "resnet18_ood", "densenet100"])
def test_large_networks(tmp_path: Path, arch: str) -> None:
    """Each parameter one stored number: the files are small, what is loaded has its whole shape."""
    with torch.device("meta"):
        state = classifier_from_arch(arch).module.state_dict()
    full = {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in state.items()}
    torch.save({"state_dict": prefixed("module.", full), "state_dict_ema": full}, tmp_path / "c.pt")
    loaded = load_known(arch, tmp_path / "c.pt")
    assert loaded.details["weights_of"]["key"] == "state_dict_ema"
    assert {n: t.shape for n, t in loaded.net.state_dict().items()} == {n: t.shape for n, t in state.items()}


@pytest.mark.parametrize(
    "noted",
    [
        {"class_to_idx": {"bee": 1, "ant": 0}},
        {"classes": ["ant", "bee"]},
        {"meta": {"CLASSES": ("ant", "bee")}},
        {"meta": {"dataset_meta": {"classes": ["ant", "bee"]}}},
        {"names": torch.zeros(2), "labels": ["a", "b", "c"], "idx_to_class": {0: "ant", 1: "bee"}},
    ],
)
def test_names_of_classes_that_a_script_noted(tmp_path: Path, noted: State) -> None:
    state = {
        n: t[:2] if n.startswith("linear") else t
        for n, t in classifier_from_arch("resnet20").module.state_dict().items()
    }
    torch.save({"state_dict": state, **noted}, tmp_path / "c.pt")
    assert load_known("resnet20", tmp_path / "c.pt").details["class_names"] == ["ant", "bee"]
    torch.save({"state_dict": state, "classes": ["ant"]}, tmp_path / "c.pt")
    assert "class_names" not in load_known("resnet20", tmp_path / "c.pt").details


A, B = torch.zeros(2), torch.ones(2)


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ({"teacher": {"a": A}, "student": {"a": B}}, None, r"2 sets of weights \(teacher, student\): .* checkpoint_key teacher"),
        ({"ema_0.999": {"a": A}, "ema_0.9999": {"a": B}, "model": {"a": A}}, None, "3 sets of weights .*checkpoint_key ema_0.999"),
        ({"state_dict": {"a": A}}, "ema", "checkpoint_key ema: .* has none, expected one of state_dict: give one of them"),
        ({"a": A}, "ema", "has none, expected one of the file itself"),
        ({"model": {"a": A}, "ema": {"shadow_params": [B]}}, "ema.shadow_params", "tensors without names there"),
        ({"ema": {"shadow_params": [B]}}, None, "holds no state dict: .*ema.shadow_params is a list without names"),
        ({"optimizer": optimizer({"a": A})}, None, "holds no state dict"),
    ],
)  # fmt: skip
def test_what_is_meant_is_asked(tmp_path: Path, content: Any, key: str | None, message: str) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(InputError, match=message) as caught:
        load_state(tmp_path / "c.pt", key)
    assert "\n" not in str(caught.value)


def test_a_key_is_a_path_or_a_prefix_of_names(tmp_path: Path) -> None:
    content = {"state_dict": {"model.a": A, "criterion.a": B}, "callbacks": {"EMA": {"weights": {"a": B}}}}
    torch.save(content, tmp_path / "c.pt")
    for key, want in {"state_dict.model": 0, "state_dict.criterion": 1, "model": 0, "callbacks.EMA.weights": 1}.items():
        assert load_state(tmp_path / "c.pt", key)["a"].tolist() == [want] * 2


def test_averages_without_names_are_said(tmp_path: Path) -> None:
    """Only their order says whose they are: the weights beside them are taken, and the facts say what was not."""
    torch.save({"model": {"a": A}, "ema": {"decay": 0.99, "shadow_params": [B]}}, tmp_path / "c.pt")
    found = read_checkpoint(tmp_path / "c.pt")
    assert found.state["a"].tolist() == [0, 0]
    assert found.choice.recorded() == {
        "weights_of": {"key": "model", "averaged": False, "without names": ["ema.shadow_params"]}
    }


def test_a_network_may_have_a_layer_called_ema(tmp_path: Path) -> None:
    """What is no average of the other parameters is one of them."""
    state = {"conv.weight": torch.zeros(2, 3), "ema.weight": torch.ones(5), "avg.bias": torch.ones(3)}
    torch.save(state, tmp_path / "c.pt")
    assert same(load_state(tmp_path / "c.pt"), state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".metadata", "torch.distributed's .* `python -m torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("latest", "DeepSpeed's .*zero_to_fp32.py"),
        ("pytorch_model_fsdp_0", "accelerate merge-weights"),
    ],
)
def test_sharded_training_states_are_refused_with_what_merges_them(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=message):
        load_state(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "b.safetensors"}}, "lacks b.safetensors, which model.safetensors.index.json names"),
        ({"weight_map": {"a": "../b.safetensors"}}, "keeps weights outside its folder"),
        ({"epochs": 3}, "names no files of weights"),
    ],
)
def test_indices_that_do_not_lead_to_weights(tmp_path: Path, index: State, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        load_state(tmp_path)


# Of torch.jit, with which others still save; the kind depends on the Python.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_programs_are_called_what_they_are(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "c.pt"))
    with pytest.raises(InputError, match="is a TorchScript program, expected parameters by name: save those"):
        load_state(tmp_path / "c.pt")
