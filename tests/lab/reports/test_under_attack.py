"""The report's section about attacked classifiers."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from manyloss.lab.analysis.results import read_run
from manyloss.lab.reports import under_attack
from manyloss.lab.reports.looks import styles_of
from manyloss.lab.runs.storage import trial_folder
from tests.lab.reports.test_report import Page, report_of
from tests.lab.run_folders import make_run

ARMS = ("equal", "<mgda>")


@pytest.fixture
def attacked(tmp_path):
    folder = make_run(tmp_path / "run", arms=ARMS, seeds=2, epochs=2)
    for number, arm in enumerate(ARMS):
        for seed in range(2):
            path = trial_folder(folder, arm, seed) / "result.json"
            result = json.loads(path.read_text())
            curve = {"0.0": 0.9, "0.1": 0.4 + 0.2 * seed, "1.0": 0.1 * number}
            picture = {"image": [[[0, 128], [255, 7]]] * 3, "map": [[0, 255], [3, 4]], "class": 1}
            plane = {"offsets": [-0.3, 0.0, 0.3], "losses": [[[0.0, 0.1, 0.0], [0.5] * 3, [1.0, 2.5, 2.0]]]}
            result["record"] = {
                "robustness": {"curves": {"FGSM": curve}},
                "saliency": [picture],
                "landscape": plane,
            }
            path.write_text(json.dumps(result))
    return folder


def test_curves_are_means_over_seeds(attacked):
    found = under_attack.read(read_run(attacked), styles_of(ARMS, "equal"))
    assert list(found.curves) == [style.name for style in found.arms] == list(ARMS)
    assert found.curves["equal"]["FGSM"] == pytest.approx({0.0: 0.9, 0.1: 0.5, 1.0: 0.0})


def test_a_panel_per_attack_and_a_map_per_arm(attacked):
    page = Page(report_of(attacked))
    (label,) = [found["aria-label"] for found in page.all("div", **{"class": "plot attack"})]
    assert label == "FGSM. equal: 0 90.0%, 0.1 50.0%, 1 0.0%; <mgda>: 0 90.0%, 0.1 50.0%, 1 10.0%"
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == [
        "loss around an image for equal, from 0 to 2.5",
        "loss around an image for <mgda>, from 0 to 2.5",
        "test image",
        "saliency of equal",
        "saliency of <mgda>",
    ]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    assert "each map has its own scale" in page.words()
    assert "0.3 (76.5/255) to every side" in page.words()


def test_up_is_along_the_gradient(attacked):
    page = Page(report_of(attacked))
    content = base64.b64decode(page.all("img")[0]["src"].partition(",")[2])
    pixels = np.array(Image.open(io.BytesIO(content)))
    assert pixels[0].mean() > pixels[-1].mean()
    assert pixels.max() == 255


def test_a_run_that_was_not_attacked_has_no_such_section(tmp_path):
    run = read_run(make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=2, epochs=2))
    assert under_attack.read(run, styles_of(run.arms)) is None
