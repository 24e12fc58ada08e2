"""Local Hugging Face folders: exports answer as transformers does, preprocessing is the folder's, bad folders are one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnxscript", reason="exports need onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports are checked in ONNX Runtime")
transformers = pytest.importorskip("transformers", reason="reads folders through transformers")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="folders hold safetensors")

from diffsmooth_trt.datasets import Classes  # noqa: E402
from diffsmooth_trt.engine import EngineFacts  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_classifier  # noqa: E402
from diffsmooth_trt.exporting.graph.preprocessing import Overrides  # noqa: E402
from diffsmooth_trt.exporting.sources.transformers import load_folder, preprocessing_of  # noqa: E402
from diffsmooth_trt.nets.values import check_depth  # noqa: E402

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48, "image_size": 32}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
FORMS = {
    "vit": ("ViTConfig", "ViTForImageClassification", {}),
    "beit": (
        "BeitConfig",
        "BeitForImageClassification",
        {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    ),
}
Maker = Callable[..., Path]


def make_folder(path: Path, kind: str, preprocessor: dict[str, Any] | None, **options: Any) -> Path:
    config, model, more = FORMS[kind]
    torch.manual_seed(1)
    net = getattr(transformers, model)(
        getattr(transformers, config)(**{**SMALL, "patch_size": 8, "num_labels": 6, **more, **options})
    )
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    transformers.utils.logging.disable_progress_bar()
    net.save_pretrained(path)
    if preprocessor is not None:
        written = {
            "image_processor_type": f"{model.removesuffix('ForImageClassification')}ImageProcessor",
            **preprocessor,
        }
        (path / "preprocessor_config.json").write_text(json.dumps(written), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("vit") / "folder", "vit", PREPROCESSOR)


@pytest.fixture
def copy(vit: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to be spoilt."""
    return Path(shutil.copytree(vit, tmp_path / "copy"))


@pytest.mark.parametrize("kind", list(FORMS))
def test_files_answer_as_the_processor_and_model_do(tmp_path: Path, kind: str) -> None:
    """On 8-bit images of another size, through transformers' own classes; the rounding of Pillow's resize is left."""
    image = pytest.importorskip("PIL.Image", reason="the processor takes Pillow images")
    folder = make_folder(tmp_path / kind, kind, PREPROCESSOR)
    report = export_classifier("hf", folder, tmp_path / "c.onnx", image_size=20)
    assert report.max_difference <= 1e-5
    facts = report.facts
    assert (facts.role, facts.classes, facts.input_shape, facts.family) == ("classifier", 6, (3, 20, 20), f"hf/{kind}")
    assert facts.details["mean"] == PREPROCESSOR["image_mean"]
    assert facts.details["input_size"] == 32
    assert facts.details["resize"] == {"to": 32, "crop": 32, "crop_at": 0, "mode": "bilinear", "antialias": True}
    assert set(facts.details["files"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()  # its default attention
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    waves = np.linspace(0, 4, 20)
    pixels = (127 + 100 * np.sin(waves[:, None, None] * [1.0, 2.0, 0.5] + waves[None, :, None])).astype(np.uint8)
    with torch.no_grad():
        want = model(**processor(images=image.fromarray(pixels), return_tensors="pt")).logits.numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "c.onnx"), providers=["CPUExecutionProvider"])
    x = (pixels.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    (got,) = session.run(None, {"images": np.repeat(x, 3, axis=0)})
    np.testing.assert_allclose(got, np.repeat(want, 3, axis=0), atol=0.02 * np.abs(want).max())


def test_flags_override_the_folder(vit: Path, copy: Path) -> None:
    """What is not given stays the folder's; nothing of its file is needed where all of it is, as in the recipes."""
    flags: dict[str, Any] = {"input_size": 32, "mean": (0.1,) * 3, "std": (0.2,) * 3}
    given = Overrides(**flags)
    own = given.over(load_folder(vit, given).preprocessing)
    assert (own.mean, own.std, own.mode, own.resize_to) == ((0.1,) * 3, (0.2,) * 3, "bilinear", 32)
    (copy / "preprocessor_config.json").write_text("[]", encoding="utf-8")
    given = Overrides(**flags, resize_mode="bicubic")
    own = given.over(load_folder(copy, given).preprocessing)
    assert (own.mean, own.std, own.mode, own.resize_to) == ((0.1,) * 3, (0.2,) * 3, "bicubic", 32)


def test_an_adapter_beside_the_weights_is_not_left_out(copy: Path) -> None:
    """huggingface/transformers#36480: the base network answered, without the adapter that was trained."""
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"holds an adapter beside its weights \(adapter_config.json\)") as caught:
        load_folder(copy, Overrides())
    assert "\n" not in str(caught.value)


def test_a_folder_of_timm_leads_to_timm(copy: Path) -> None:
    if importlib.util.find_spec("timm") is not None:
        pytest.skip("transformers loads such folders through timm")
    said = {"architecture": "vit_tiny_patch16_224", "num_classes": 6, "pretrained_cfg": {"mean": [0.5] * 3}}
    (copy / "config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"timm saved it: give arch timm/vit_tiny_patch16_224, to certify .*_224:/"
    ) as caught:
        load_folder(copy, Overrides())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["half", "pickle", "shards"])
def test_other_forms_of_the_weights(copy: Path, form: str) -> None:
    """Half precision, torch's own format and several files give the network that one file of float32 gives."""
    state = safetensors_torch.load_file(copy / "model.safetensors")
    want = load_folder(copy, Overrides()).net
    (copy / "model.safetensors").unlink()
    if form == "half":
        safetensors_torch.save_file(
            {k: v.half() for k, v in state.items()}, copy / "model.safetensors", {"format": "pt"}
        )
    elif form == "pickle":
        torch.save(state, copy / "pytorch_model.bin")
    else:
        names = sorted(state)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for part, held in parts.items():
            safetensors_torch.save_file({name: state[name] for name in held}, copy / part, {"format": "pt"})
        places = {name: part for part, held in parts.items() for name in held}
        index = {"metadata": {}, "weight_map": places}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    got = load_folder(copy, Overrides()).net
    x = torch.randn(2, 3, 32, 32)
    assert next(got.parameters()).dtype == torch.float32
    torch.testing.assert_close(got(x), want(x), rtol=0, atol=5e-3 if form == "half" else 0)


def test_weights_are_loaded_once_and_hashed_once(
    vit: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, loaded = vit / "model.safetensors", []
    safetensors = sys.modules["safetensors"]
    real = safetensors.safe_open

    def spy(file: Any, *given: Any, **options: Any) -> Any:
        loaded.append(Path(file))
        return real(file, *given, **options)

    for module in (safetensors, transformers.modeling_utils):
        monkeypatch.setattr(module, "safe_open", spy)
    opened.clear()
    load_folder(vit, Overrides())
    assert loaded.count(path) == 1  # mapped, as the libraries do it
    assert opened.count(path) == 1  # to hash it


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}), encoding="utf-8")


def drop_head(folder: Path) -> None:
    state = safetensors_torch.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    safetensors_torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "unknown type": (
        lambda f: edit(f / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config"}),
        "model type 'mine', which transformers .* does not load .*code in the folder is never run",
    ),
    "no classifier of that type": (
        lambda f: edit(f / "config.json", model_type="gpt2"),
        "'gpt2' .* has no image classifier",
    ),
    "quantised": (lambda f: edit(f / "config.json", quantization_config={"bits": 4}), "is of a quantised model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: expected one of model.safetensors"),
    "weights cut short": (
        lambda f: cut(f / "model.safetensors"),
        "model.safetensors is truncated or no safetensors file",
    ),
    "no head": (
        drop_head,
        r"parameters 2 missing \(classifier.bias, classifier.weight\): give a folder of a fine-tuned",
    ),
    "other shapes": (
        lambda f: edit(f / "config.json", hidden_size=48),
        r"does not fit its config.json: parameters \d+ mismatched \(classifier.weight, ",
    ),
    "more layers": (lambda f: edit(f / "config.json", num_hidden_layers=3), r"missing \(vit\S*, vit\S*, vit\S*, …\)"),
    "endless layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=10**8),
        "num_hidden_layers in .* is 100000000, expected at most 1000: fetch the folder again",
    ),
    "larger than its weights": (
        lambda f: edit(f / "config.json", patch_size=2000),
        r"is of a network of \d+ numbers, its weights have \d+: fetch the whole folder again",
    ),
    "no preprocessor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "has no preprocessor_config.json: give input_size, mean and std",
    ),
    "not square": (
        lambda f: edit(f / "preprocessor_config.json", size={"height": 32, "width": 48}),
        "size .* is not square: give input_size",
    ),
    "no filter": (lambda f: edit(f / "preprocessor_config.json", resample=9), "resample 9 is unknown|cannot be used"),
    "preprocessor is no JSON": (
        lambda f: (f / "preprocessor_config.json").write_text("[]"),
        "must hold one JSON object",
    ),
    "rules of its own": (
        lambda f: edit(
            f / "preprocessor_config.json",
            image_processor_type="LevitImageProcessor",
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
        ),
        "does more than resize, crop and normalise: give input_size",
    ),
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_spoilt_folders(copy: Path, how: str) -> None:
    spoil, message = SPOILT[how]
    spoil(copy)
    before = sorted(copy.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        export_classifier("hf", copy, copy / "c.onnx")
    assert "\n" not in str(caught.value)
    assert sorted(copy.iterdir()) == before


def test_nothing_is_fetched(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even tried: a failed attempt could be swallowed."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(socket.socket, "connect", lambda *given: asked.append(given))
    load_folder(vit, Overrides())
    assert not asked


def test_code_in_weights_is_never_run(copy: Path, tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "marker",)

    (copy / "model.safetensors").unlink()
    torch.save({"w": Bad()}, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="was NOT executed"):
        load_folder(copy, Overrides())
    assert not (tmp_path / "marker").exists()


def test_weights_outside_the_folder(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    index = json.dumps({"weight_map": {"a": "../model.safetensors"}})
    (copy / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(InputError, match=r"keeps weights outside its folder \(../model.safetensors\)"):
        load_folder(copy, Overrides())


def test_other_sizes_are_the_networks_to_take(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no images of 40×40 .*: give another input_size"):
        export_classifier("hf", vit, tmp_path / "c.onnx", input_size=40)
    with pytest.raises(InputError, match="is no folder: arch hf takes one"):
        export_classifier("hf", vit / "config.json", tmp_path / "c.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({"size": 224, "resample": 3}, (224, 224, 0, "bicubic")),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 256, 16, "bilinear")),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 256, 16, "bilinear")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, (384, 384, 0, "bilinear")),
        ({"do_resize": False, "size": 300}, (192, 192, 0, "bilinear")),
    ],
)  # fmt: skip
def test_forms_of_preprocessor_files(values: dict[str, Any], want: tuple[Any, ...]) -> None:
    found = preprocessing_of(values, 192)
    assert (found.input_size, found.resize_to, found.crop_at, found.mode) == want
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


def test_numbers_of_classes_are_no_depths(tmp_path: Path) -> None:
    """ "depth charge" may be class 1,400 of a network; its layers are counted elsewhere."""
    path = tmp_path / "config.json"
    check_depth(path, {"label2id": {"depth charge": 1400, "players": 2000}, "num_hidden_layers": 48})
    with pytest.raises(InputError, match="depths in .*config.json is 1400, expected at most 1000"):
        check_depth(path, {"backbone": {"depths": [2, 1400]}})


def test_class_names_are_facts_that_decide_labels(vit, tmp_path):
    """`id2label` of the folder; a data set's names are matched with it (huggingface/datasets#2457)."""
    names = ["tench, Tinca tinca", "goldfish", "Great_White", "hen", "ray", "cock"]
    folder = Path(shutil.copytree(vit, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert load_folder(vit, Overrides()).details["class_names"] == [f"LABEL_{k}" for k in range(6)]
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    facts = EngineFacts("classifier", (3, 32, 32), classes=6, details=load_folder(folder, Overrides()).details)
    assert EngineFacts.from_json(facts.to_json()).class_names == tuple(names)
    assert Classes(6, facts.class_names).numbers()["tench"] == 0
