"""Files in a folder that someone else may have prepared."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from manyloss.lab.checks import LabError, StorageError
from manyloss.lab.pictures import Pictures
from manyloss.lab.printing import printable
from manyloss.lab.runs import storage
from manyloss.lab.runs.trial import Trial
from tests.lab.runs.test_trial import Stop, assert_same_trial, spec, stop_at


def test_links_are_not_written_through(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("years of work")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("report.html", "steps.jsonl", "report.html.partial"):
        (folder / name).symlink_to(precious)
    storage.write_bytes(folder / "report.html", b"page")
    assert (folder / "report.html").read_bytes() == b"page"
    assert not (folder / "report.html").is_symlink()
    with pytest.raises(StorageError, match="A link is in its place: remove it"):
        storage.append_lines(folder / "steps.jsonl", [{"a": 1}])
    assert precious.read_text() == "years of work"


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    torch.save({"state": Bomb()}, path)
    with pytest.raises(StorageError, match="is damaged"):
        storage.load_tensors(path)
    assert capsys.readouterr().out == ""
    with pytest.raises(LabError, match=r"has a Bomb at \['a'\]\[0\]"):
        storage.write_tensors(path, {"a": [Bomb()]})


def test_plain_data_come_back(tmp_path):
    value = {
        "milestones": Counter({3: 1}),
        "number": np.float64(0.1),
        "list": [1, (2.5, None), {"x": torch.ones(2)}],
    }
    storage.write_tensors(tmp_path / "x.pt", value)
    back = storage.load_tensors(tmp_path / "x.pt")
    assert back["milestones"] == Counter({3: 1})
    assert back["number"] == 0.1
    assert back["list"][1] == (2.5, None)
    assert torch.equal(back["list"][2]["x"], torch.ones(2))


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    old, new = spec(tmp_path), spec(tmp_path, epochs=5)
    with pytest.raises(Stop):
        Trial(old).run(stop_at(1.01))
    (old.folder / "settings.json").unlink()
    with pytest.raises(StorageError, match="made with other settings than those beside it") as error:
        Trial(new).run()
    # Following the advice works, and gives what a fresh folder gives.
    assert f"Delete the folder {old.folder}" in str(error.value)
    import shutil

    shutil.rmtree(old.folder)
    Trial(new).run()
    fresh = spec(tmp_path / "fresh", epochs=5)
    Trial(fresh).run()
    assert_same_trial(new.folder, fresh.folder)


def test_long_names_have_folders(tmp_path):
    one, other = ("static:" + ":".join(f"loss{i}=0.{k}1" for i in range(40)) for k in (1, 2))
    folders = [storage.trial_folder(tmp_path, name, 0) for name in (one, other)]
    assert folders[0] != folders[1]
    for folder in folders:
        folder.mkdir(parents=True)


@pytest.mark.parametrize(
    "content",
    ['{"status": "splendid"}', "[" * 100_000, '{"status": ["finished"]}', "\ufeff{}", '{"status": 1e999}'],
)
def test_an_odd_result_is_one_clear_error(content, tmp_path):
    (tmp_path / "result.json").write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=r"result\.json is damaged"):
        storage.read_result(tmp_path)


def test_a_cut_last_line_is_left_out_and_another_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert [line["a"] for line in storage.read_lines(path)] == [1, 2]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(StorageError, match="line 2"):
        list(storage.read_lines(path))


def test_nothing_steers_the_terminal():
    assert printable("a\x1b[31m\x07b\u202ec\ud800\n\td") == "a\ufffd[31m\ufffdb\ufffdc\ufffd\n\td"
    assert "\x1b" not in str(LabError("x \x1b]0;title\x07"))
    assert printable(json.loads('"\\ud83d\\ude00 ä"')) == "😀 ä"


def test_pictures_come_back_as_they_were(tmp_path):
    shown = Pictures(
        torch.arange(12, dtype=torch.uint8).reshape(1, 2, 2, 3),
        {"how far": torch.zeros(1, 4, 4, dtype=torch.uint8)},
        {"how far": torch.ones(1, 4, 4, dtype=torch.uint8)},
    )
    storage.write_pictures(tmp_path / storage.PICTURES, shown)
    found = storage.read_pictures(tmp_path / storage.PICTURES)
    assert torch.equal(found.inputs, shown.inputs)
    assert torch.equal(found.truth["how far"], shown.truth["how far"])
    assert torch.equal(found.outputs["how far"], shown.outputs["how far"])
    assert storage.read_pictures(tmp_path / "none.npz") is None
