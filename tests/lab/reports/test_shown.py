"""The report's pictures: of the first seed that has them, the truth above what every arm answers."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from manyloss.lab.analysis.results import read_run
from manyloss.lab.checks import StorageError
from manyloss.lab.pictures import Pictures
from manyloss.lab.reports import shown
from manyloss.lab.runs import storage
from manyloss.lab.runs.storage import trial_folder
from tests.lab.reports.test_report import Page, report_of
from tests.lab.run_folders import make_run

ARMS = ("equal", "<mgda>")


@pytest.fixture
def with_pictures(tmp_path):
    folder = make_run(tmp_path / "run", arms=ARMS, seeds=2, epochs=2)
    for number, arm in enumerate(ARMS):
        answers = {"depth": torch.full((2, 4, 6), 100 + number, dtype=torch.uint8)}
        if number == 0:
            answers["classes"] = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
        pictures = Pictures(
            torch.full((2, 60, 60, 3), 7, dtype=torch.uint8),
            {name: torch.zeros_like(answer) for name, answer in answers.items()},
            answers,
        )
        storage.write_pictures(trial_folder(folder, arm, 1) / storage.PICTURES, pictures)
    return folder


def pixels_of(source):
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_truth_and_answers_stand_below_the_inputs(with_pictures):
    page = Page(report_of(with_pictures))
    assert "all of seed 1" in page.words()
    texts = [found["alt"] for found in page.all("img")]
    assert texts[:6] == [
        "test example 1",
        "test example 2",
        "depth of example 1",
        "depth of example 2",
        "depth of example 1 by equal",
        "depth of example 2 by equal",
    ]
    assert "depth of example 2 by <mgda>" in texts
    assert "classes of example 1 by <mgda>" not in texts
    found = {each["alt"]: each for each in page.all("img")}
    assert (pixels_of(found["depth of example 1 by <mgda>"]["src"]) == 101).all()
    assert pixels_of(found["test example 1"]["src"]).shape == (120, 120, 3)
    assert found["depth of example 1"]["height"] == "120"


def test_other_content_is_damage_and_none_is_no_section(with_pictures, tmp_path):
    trial = trial_folder(with_pictures, "equal", 1)
    np.savez(trial / storage.PICTURES, inputs=np.zeros((2, 3)))
    with pytest.raises(StorageError, match=r"pictures\.npz.*holds no pictures"):
        shown.read(read_run(with_pictures))
    (trial / storage.PICTURES).write_bytes(b"PK half")
    with pytest.raises(StorageError, match=r"pictures\.npz"):
        shown.read(read_run(with_pictures))
    assert shown.read(read_run(make_run(tmp_path / "other", arms=ARMS, seeds=1, epochs=2))) is None
