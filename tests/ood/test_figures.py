"""Figures of `ood`: one colour a set in every panel, a title that says what is shown, spikes that leave the rest visible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from diffsmooth_trt.cli import main
from diffsmooth_trt.errors import InputError
from diffsmooth_trt.ood.config import OodConfig
from diffsmooth_trt.ood.figures import colours_of, figure_of, title_of
from diffsmooth_trt.ood.page import page
from diffsmooth_trt.ood.report import versions_of
from diffsmooth_trt.ood.run import run
from diffsmooth_trt.ood.store import OodStore

SETS = ("generated:uniform", "generated:smooth")


@pytest.fixture(params=["clean", "certified"])
def finished(request, linear_classifier, image_set, tmp_path):
    weights = np.random.default_rng(0).normal(0, 0.5, (5, 48))
    config = OodConfig(
        linear_classifier(weights, np.zeros(5)), image_set("inside", 6), SETS, tmp_path / "r.jsonl", kind=request.param,
        sigma=0.25, batch=8, backend="onnxruntime", **({"n": 100} if request.param == "certified" else {}),
    )  # fmt: skip
    run(config).close()
    return tmp_path / "r.jsonl", request.param


def test_a_set_has_one_colour_in_all_panels(finished):
    path, kind = finished
    with OodStore.open(path) as store:
        found = versions_of(store, (0.0, 0.25))
        panels, colours = figure_of(store, found).axes, colours_of(found)
    assert len(panels) == (3 if kind == "certified" else 2)
    assert len(set(colours.values())) == 3
    for name in SETS:
        expected = to_hex(colours[name])
        handles, labels = panels[0].get_legend_handles_labels()
        assert to_hex(handles[labels.index(name)].get_edgecolor()) == expected
        assert expected in {to_hex(line.get_color()) for line in panels[1].lines}
        if kind == "certified":
            handles, labels = panels[2].get_legend_handles_labels()
            assert to_hex(handles[labels.index(name)].get_color()) == expected
    assert to_hex(colours[""]) not in {to_hex(line.get_color()) for panel in panels[1:] for line in panel.lines}
    assert panels[0].get_yscale() == "log"
    handles, labels = panels[0].get_legend_handles_labels()
    widths = [handles[labels.index(name)].get_linewidth() for name in SETS]
    assert widths[0] > widths[1] >= 1  # where one lies on another, both are seen


def test_the_title_says_what_is_shown(finished):
    path, kind = finished
    with OodStore.open(path) as store:
        found = versions_of(store, (0.0, 0.25))
        title = title_of(store, found)
        assert "UNFINISHED" not in title
        assert "images: inside.npz 6, generated:uniform 6, generated:smooth 6" in title
        assert (
            "ℓ2, σ = 0.25, α = 0.001" if kind == "certified" else "clean, score softmax; images as they are"
        ) in title
        del store.records[2, 0]
        assert title_of(store, found).startswith("UNFINISHED") and "generated:smooth 5 of 6" in title_of(store, found)


def test_the_page_has_the_figures(finished, load_beside):
    """Every figure of the table, rounded against us; areas under the ROC curves are at most the AUROCs."""
    path, kind = finished
    assert main(["report", str(path), "--html", str(path.with_suffix(".html")), "--radii", "0,0.25"]) == 0
    data = load_beside("chart_pages.py").embedded(path.with_suffix(".html"))
    with OodStore.open(path) as store:
        found = versions_of(store, (0.0, 0.25))
    rows = {tuple(row[:3]): [float(cell) for cell in row[3:]] for row in data["tables"][0]["rows"]}
    assert len(rows) == 3 * len(found)
    for version in found:
        for name, measured in version.measured().items():
            auroc, aupr, fpr = rows[version.name, f"{version.radius:g}", name]
            assert 0 <= 100 * measured.auroc - auroc < 0.01 + 1e-9 and 0 <= 100 * measured.aupr - aupr < 0.01 + 1e-9
            assert -1e-9 <= fpr - 100 * measured.fpr < 0.01 + 1e-9
    charts = {chart["title"]: chart for chart in data["charts"]}
    assert ("AUROC against the radius" in charts) == (kind == "certified")
    for name in SETS:
        assert [line["name"] for line in charts[f"Scores: {name}"]["lines"]] == ["in-distribution", name]
        for version, line in zip(found, charts[f"ROC: {name}"]["lines"], strict=True):
            x, y = np.array(line["points"]).T / 100
            area = float((np.diff(x) * y[:-1]).sum())
            assert area <= version.measured()[name].auroc + 1e-9 or version.bounds  # whose ties all count against us


def test_a_run_without_records_of_a_set_is_drawn(finished):
    """As far as it is: a set that has none yet has no curve."""
    path, _ = finished
    with OodStore.open(path) as store:
        for place in [place for place in store.records if place[0] == 2]:
            del store.records[place]
        found = versions_of(store, (0.0,))
        panels = figure_of(store, found).axes
        assert "generated:smooth 0 of 6" in title_of(store, found)
        colours = {to_hex(line.get_color()) for line in panels[1].lines}
        assert colours == {to_hex(colours_of(found)[SETS[0]]), to_hex("k")}
        assert f"ROC: {SETS[0]}" in (drawn := page(store, found)) and "ROC: generated:smooth" not in drawn


def test_sets_that_a_version_leaves_out_are_left_out_of_its_curves(finished):
    """distro-l2 has no figures of a set at a radius where all scores of both sides are 0."""
    path, _ = finished
    with OodStore.open(path) as store:
        *_, first = versions_of(store, (0.0,))
        fewer = replace(first, radius=0.25, outside={SETS[0]: first.outside[SETS[0]]})
        for versions in ([first, fewer], [fewer, first]):
            assert f"ROC: {SETS[1]}" in page(store, versions)
            figure_of(store, versions)
        with pytest.raises(InputError, match="html has nothing to show"):
            page(store, [])
