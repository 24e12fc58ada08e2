"""Writes edm_known_answers.json: what EDM's own networks answer.

    PYTHONPATH=CHECKOUT python tests/data/make_edm_known_answers.py

CHECKOUT is NVlabs/edm (Karras et al. 2022), whose `training/networks.py` gives the answers and the parameters' names.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from edm_parameters import LABELS, LEVELS, NETWORKS, images, parameters
from training.networks import EDMPrecond

HERE = Path(__file__).parent


def main() -> None:
    answers = {}
    for name, options in NETWORKS.items():
        given = {key: value for key, value in options.items() if key not in ("img_resolution", "label_dim")}
        classes = options.get("label_dim", 0)
        net = EDMPrecond(options["img_resolution"], 3, classes, model_type="SongUNet", **given).eval()
        net.load_state_dict(parameters(net.state_dict()))
        hot = [[float(place == label) for place in range(classes)] for label in LABELS]
        with torch.no_grad():
            out = net(images(), torch.tensor(LEVELS), torch.tensor(hot) if classes else None)
        shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
        answers[name] = {"parameters": shapes, "denoised": [round(value, 6) for value in out.flatten()[::5].tolist()]}
    (HERE / "edm_known_answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
