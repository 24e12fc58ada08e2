"""Predicting a data set: the log-probabilities of its images, as a table or JSON. There is no certificate in either."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..datasets import Classes, Entry
from ..dtypes import Floats64
from ..errors import InputError
from ..images import Image, Images, together
from ..runs.data import look_over, say_skipped, skipped_line
from ..runs.identity import versions
from .soft_vote import DiffSmoothPredictor, published_log_probabilities

FORMAT = 1
NO_CERTIFICATE = "a soft vote: it certifies nothing, of no image and at no radius; `certify --method diffsmooth` does"
TOGETHER = 64  # images a call


@dataclass(frozen=True)
class Prediction:
    """One image's answer: log p and the published log-probabilities, float64 `[K]` each."""

    index: int
    label: int
    log_mean: Floats64
    published: Floats64

    @property
    def predict(self) -> int:
        """The likeliest class."""
        return int(self.log_mean.argmax())

    @property
    def correct(self) -> bool:
        """Whether it is the label."""
        return self.predict == self.label


@dataclass(frozen=True)
class Predictions:
    """What a predictor says of a data set, whose content is named by `data`; where it is not `labelled`, no answer is right. Of
    rows that were `skipped`, their label and why they cannot be used; these count as wrong.
    """

    predictor: Mapping[str, Any]
    machine: Mapping[str, Any]
    key: str
    key_drawn: bool
    data: str
    labelled: bool
    rows: Sequence[Prediction]
    skipped: Mapping[int, tuple[int, str]] = field(default_factory=dict)

    def text(self) -> str:
        """A summary in a few lines."""
        p = self.predictor
        said = f"{len(self.rows)} images without labels, so there is no accuracy"
        if self.labelled:
            right, asked = sum(row.correct for row in self.rows), len(self.rows) + len(self.skipped)
            loss = -float(np.mean([row.log_mean[row.label] for row in self.rows]))
            said = f"accuracy {right} of {asked} images ({right / asked:.1%}), mean −log p of the label {loss:.4f}"
        return "\n".join(
            [
                f"{p['method']} {p['id']}: denoising sigma {p['denoising_sigma']:g}, local sigma {p['local_sigma']:g}, "
                f"{p['num_samples']} samples of {p['local_vote']} local noises",
                f"{NO_CERTIFICATE}",
                said,
                *([skipped_line(self.skipped, ", counted as wrong" * self.labelled)] if self.skipped else []),
            ]
        )

    def tsv(self) -> str:
        """`idx label predict correct log_p_0 …`, natural logarithms of the mean probabilities."""
        classes = range(len(self.rows[0].log_mean))
        lines = ["\t".join(["idx", "label", "predict", "correct", *(f"log_p_{each}" for each in classes)])]
        for row in self.rows:
            cells = [row.index, row.label, row.predict, int(row.correct), *(f"{value:.9g}" for value in row.log_mean)]
            lines.append("\t".join(map(str, cells)))
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All of it as one JSON object."""
        values = {
            "format": FORMAT,
            "certificate": None,
            "note": NO_CERTIFICATE,
            "predictor": self.predictor,
            "machine": self.machine,
            "key": self.key,
            "key_source": "drawn" if self.key_drawn else "given",
            "data": self.data,
            **({"skipped": {str(row): why for row, (_, why) in self.skipped.items()}} if self.skipped else {}),
            "images": [
                {
                    "index": row.index,
                    "label": row.label if self.labelled else None,
                    "predict": row.predict,
                    "correct": row.correct if self.labelled else None,
                    "log_probabilities": row.log_mean.tolist(),
                    "published_log_probabilities": row.published.tolist(),
                }
                for row in self.rows
            ],
        }
        return json.dumps(values, ensure_ascii=False) + "\n"


def predict_images(
    predictor: DiffSmoothPredictor,
    images: Images,
    *,
    key_drawn: bool,
    class_map: Mapping[str, Entry] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Predictions:
    """Predict each image under its own number. `progress` is told how many more are done. InputError for labels beyond the
    classes, or of which it is not known which class they are, and for images that cannot be used, unless they are to be skipped.
    """
    if images.matching is None:
        images.match(Classes(predictor.classes, predictor.classifier.facts.class_names), class_map)
    worst = max(images.labels(), default=0)
    if worst >= predictor.classes:
        raise InputError(
            f"{images.path} has label {worst}, {predictor.classifier.name} has {predictor.classes} classes: give its data"
        )
    look_over(images, predictor.input_shape)
    say_skipped(images)
    rows: list[Prediction] = []
    for group in together(images, TOGETHER):
        rows += _predicted(predictor, group)
        progress(len(group))
    if not rows:
        raise InputError(f"{images.path} has no image that can be used: give another data set")
    return Predictions(
        predictor=predictor.identity,
        machine=versions(predictor.classifier.device),
        key=predictor.key.hex,
        key_drawn=key_drawn,
        data=images.identity,
        labelled=images.labelled,
        rows=rows,
        skipped={row: images.skipped[row] for row in sorted(images.skipped)},
    )


def _predicted(predictor: DiffSmoothPredictor, images: Sequence[Image]) -> list[Prediction]:
    pixels = np.stack([image.pixels for image in images])
    log_means = predictor.predict_log_proba(pixels, np.array([image.index for image in images]))
    published = published_log_probabilities(log_means)
    return [
        Prediction(image.index, image.label, log_mean, other)
        for image, log_mean, other in zip(images, log_means, published, strict=True)
    ]
