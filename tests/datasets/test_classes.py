"""Which class a label is: known, mapped or refused, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffsmooth_trt.datasets.classes import Classes, Matching, match, plain, read_class_map
from diffsmooth_trt.datasets.folder import FolderSource
from diffsmooth_trt.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"


class Names:
    """What matching asks of a source."""

    labelled, empty = True, ()

    def __init__(self, names: list[str] | None, ranked: bool = False) -> None:
        self.names, self.ranked = None if names is None else tuple(names), ranked


def matched(names, count, known=None, ranked=True, given=None) -> Matching:
    return match(Path("data"), Names(names, ranked), Classes(count, None if known is None else tuple(known)), given)


def test_numbers_are_numbers():
    """pytorch/vision#714, modestyachts/ImageNetV2#10, NVIDIA/DIGITS#665, pytorch/pytorch#22566: 0, 1, 10, 11, 2, …"""
    names = sorted(map(str, range(12)))
    assert matched(names, 12).classes == {str(k): k for k in range(12)}
    assert matched(["007", "03"], 12) == Matching("number", {"007": 7, "03": 3})  # a part of the classes is fine


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["0", "270", "90"], 4, "has the class 270, the classifier has classes 0 to 3"),  # ultralytics#13936: degrees
        ([str(k) for k in range(1, 13)], 12, "has the class 12, the classifier has classes 0 to 11"),  # numbered from 1
        (["1", "01"], 4, "has one class number twice"),
        (["a", "b"], 12, r"has 2 classes \(a, b\), the classifier has 12"),
        (["a", "b", "c"], 2, r"has 3 classes \(a, b, c\), the classifier has 2"),
        (sorted(f"class{k}" for k in range(12)), 12, "has class class10 before class2 as text"),
        (["1", "2", "x"], 4, r"has 3 classes"),
    ],
)
def test_what_is_not_known_is_refused_with_a_remedy(names, count, message):
    with pytest.raises(InputError, match=rf"^data {message}.*give class_map"):
        matched(names, count)


def test_ranks_count_where_nothing_contradicts():
    assert matched(["ant", "bee", "cat"], 3) == Matching("rank", {"ant": 0, "bee": 1, "cat": 2})
    assert matched([f"class{k:02d}" for k in range(12)], 12).by == "rank"
    wordnet = [f"n{k:08d}" for k in range(1000)]
    assert matched(wordnet, 1000, [f"thing {k}" for k in range(1000)]).by == "rank"
    with pytest.raises(InputError, match="the classifier calls its own dog, fox, hen"):
        matched(["ant", "bee", "cat"], 3, ["dog", "fox", "hen"])
    assert matched(["ant", "bee"], 2, ["LABEL_0", "LABEL_1"]).by == "rank"  # no names at all


def test_names_that_the_classifier_knows_decide():
    known = ["tench, Tinca tinca", "Sea_Lion", "crane", "crane, bird"]
    assert matched(["sea lion", "tench"], 4, known) == Matching("name", {"sea lion": 1, "tench": 0})
    assert matched(["crane, bird", "crane"], 4, known).classes == {"crane, bird": 3, "crane": 2}
    with pytest.raises(InputError, match="has the class ape, which the classifier does not know"):
        matched(["ape", "tench"], 4, known)
    with pytest.raises(InputError, match="classes Tench and tench, one for the classifier"):
        matched(["Tench", "tench"], 4, known)


def test_numbers_may_be_names():
    """facebookresearch/deit#130: ImageFolder has folders of numbers in the order of text; ultralytics#13936: degrees."""
    text = sorted(map(str, range(12)))
    assert matched(text, 12, text) == Matching("name", {name: rank for rank, name in enumerate(text)})
    assert matched(["0", "270", "90"], 4, ["0", "180", "270", "90"]).classes == {"0": 0, "270": 2, "90": 3}
    assert matched(text, 12, map(str, range(12))).by == "number"  # a name that is the number says nothing
    assert "in the order of text (0, 1, 10, 11, …): give --class-map then" in matched(text, 12).doubtful
    assert matched(["0", "1", "2"], 3).doubtful == matched(text, 12, text).doubtful == ""


def test_any_of_several_names_decides():
    """timm has WordNet ids in front of names, and huggingface's ImageNet has "tench, Tinca tinca"."""
    known = ["n01443537, goldfish, Carassius auratus", "n01440764, tench, Tinca tinca"]
    data = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    assert matched(data, 2, known, ranked=False) == Matching("name", {data[0]: 1, data[1]: 0})
    assert matched(["n01440764", "n01443537"], 2, known).classes == {"n01440764": 1, "n01443537": 0}
    with pytest.raises(InputError, match="has the class goldfish, tench, which the classifier does not know"):
        matched(["goldfish, tench", "tench"], 2, known)  # of two classes


def test_label_orders_that_differ_are_mapped():
    """huggingface/datasets#2457, huggingface/optimum#197: the data set's order is not the model's, nor its case."""
    data, model = ["entailment", "neutral", "contradiction"], ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    found = matched(data, 3, model, ranked=False)
    assert found == Matching("name", {"entailment": 2, "neutral": 1, "contradiction": 0})
    assert found.to_class(Names(data)) == {0: 2, 1: 1, 2: 0}
    assert matched(data, 3, data, ranked=False).to_class(Names(data)) is None
    assert "0 = contradiction" in found.line()


def test_numbered_names_are_held_against_the_classifier():
    assert matched(["a", "b"], 2, None, ranked=False) == Matching("number", {"a": 0, "b": 1})
    assert (
        matched(["plane", "car"], 2, ["airplane", "car"], ranked=False).by == "number"
    )  # what both know has one number
    for count, known in ((3, None), (2, ["car", "airplane"]), (3, ["a", "b", "c"])):
        with pytest.raises(InputError, match="which is which is not known; give class_map"):
            matched(["plane", "car"], count, known, ranked=False)
    assert matched(None, 7, ranked=False) == Matching("number")


def test_a_class_map_is_read_in_every_usual_form(tmp_path):
    def read(name: str, text: str) -> dict[str, int | str]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_class_map(tmp_path / name)

    two = {"n01440764": 0, "n01443537": 1}
    for name, text in (
        ("a.txt", "n01440764,0\nn01443537,1\n"),
        ("b.tsv", "n01440764\t0\nn01443537\t1\n"),
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"),
        ("lines.txt", "n01440764\nn01443537\n"),
        ("columns.csv", "name,class\nn01440764,0\nn01443537,1\n"),
        ("map.json", json.dumps(two)),
        ("list.json", json.dumps(list(two))),
        ("id2label.json", json.dumps({str(number): name for name, number in two.items()})),
        ("imagenet_class_index.json", json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})),
    ):
        found = read(name, text)
        assert {key: found[key] for key in two} == two, name
    assert read("id2label.json", '{"0": "tench"}')["tench"] == 0
    assert read("names.txt", "ant,bee\ncat,dog\n") == {"ant": "bee", "cat": "dog"}
    for name, text in (
        ("empty.txt", ""),
        ("x.json", "{"),
        ("y.json", '{"a": [1]}'),
        ("z.json", "3"),
        ("t.json", '{"a": true}'),
    ):
        with pytest.raises(InputError, match="class.map|class map"):
            read(name, text)
    with pytest.raises(InputError, match="is not a readable class map"):
        read_class_map(tmp_path / "none.txt")
    long = "9" * 5000  # more than Python makes a number of
    assert read("digits.json", json.dumps({"²": "cat", "٣": 3, long: "dog"})) == {"²": "cat", "٣": 3, long: "dog"}
    assert read("digits.txt", f"cat,²\ndog,{long}\n") == {"cat": "²", "dog": long}


def test_a_class_map_decides():
    assert matched(["a", "b"], 12, given={"a": 7, "b": 3, "c": 1}) == Matching("class map", {"a": 7, "b": 3})
    assert matched(["a"], 3, ["x", "y", "z"], given={"a": "Z"}).classes == {"a": 2}
    for given, message in (
        ({"a": 1}, "lacks the class b"),
        ({"a": 1, "b": 12}, "has 12 for b"),
        ({"a": 0, "b": "x"}, "has x for b"),
    ):
        with pytest.raises(InputError, match=f"class_map {message}"):
            matched(["a", "b"], 12, given=given)
    assert plain("Sea_Lion") == plain("sea  lion") == plain("SEA-LION")


def folder_of(path: Path, names: list[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(PNG)
    return path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "test/a/1.png"], r"holds the splits test, train.*give one of them, like .*test"),
        (["Validation/a/1.png"], "holds the splits Validation"),
        (["train/1.png", "val/1.png"], "holds the splits train, val"),
        (["train/a/1.png", "meta/1.png"], "holds the splits train"),
        (["images/a/1.png", "images/b/1.png"], "holds the folder images alone"),
    ],
)
def test_folders_of_splits_are_refused(tmp_path, names, message):
    """fastai/fastai#1552 and its like."""
    with pytest.raises(InputError, match=message):
        FolderSource(folder_of(tmp_path / "f", names))


def test_a_class_that_is_called_test_is_a_class(tmp_path):
    assert FolderSource(folder_of(tmp_path / "f", ["test/1.png", "rest/1.png"])).names == ("rest", "test")


def test_linked_folders_are_followed_once(tmp_path):
    """huggingface/datasets#6853, fastai/fastai#2270: linked folders were left out without a word."""
    real = folder_of(tmp_path / "real", ["b/1.png", "b/deep/2.png"])
    folder = folder_of(tmp_path / "f", ["a/1.png"])
    (folder / "b").symlink_to(real / "b")
    (folder / "a" / "more").symlink_to(real / "b" / "deep")
    (real / "b" / "deep" / "loop").symlink_to(real / "b")
    source = FolderSource(folder)
    assert source.files.names == ["a/1.png", "a/more/2.png", "a/more/loop/1.png", "b/1.png", "b/deep/2.png"]
    assert source.numbers.tolist() == [0, 0, 0, 1, 1]
    assert source.left_out == ("left out: 2 folders that are linked twice (a/more/loop/deep, b/deep/loop)",)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    folder = folder_of(tmp_path / "f", ["a/1.JPEG", "a/notes.txt", "b/1.gif", "b/.DS_Store", "readme.png"])
    source = FolderSource(folder)
    assert source.files.names == ["a/1.JPEG", "b/1.gif"]
    assert source.left_out == (
        "left out: 3 files that are no images of a class (a/notes.txt, b/.DS_Store, readme.png)",
    )
    flat = FolderSource(folder_of(tmp_path / "flat", ["2.png", "1.png"]))
    assert (flat.files.names, flat.labelled, flat.numbers.tolist()) == (["1.png", "2.png"], False, [-1, -1])
