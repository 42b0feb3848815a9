import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from manyloss import cli, lab
from manyloss.lab.checks import CannotWriteError
from manyloss.lab.commands import split_methods
from manyloss.lab.recipes import all_recipes

PROBLEM = str(Path(__file__).parent / "lab" / "small_problem.py")
METHODS = "gradnorm,fail,explode,single"
COMPARISON = ["compare", PROBLEM, "--methods", METHODS, "--seeds", "2", "--epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small comparison made by the command, and what it printed."""
    root = tmp_path_factory.mktemp("cli") / "run"
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(sys, "argv", ["manyloss", *COMPARISON, "--jobs", "2", "--out", str(root)])
    output = root.parent / "output.txt"
    try:
        with output.open("w") as file:
            monkeypatch.setattr(sys, "stdout", file)
            with pytest.raises(SystemExit) as end:
                cli.main()
    finally:
        monkeypatch.undo()
    assert end.value.code == cli.CRASHED_TRIALS
    return root, output.read_text()


def test_recipes_are_listed(manyloss):
    code, out, _ = manyloss("recipes")
    assert code == 0
    for recipe in all_recipes().values():
        assert recipe.name in out
        assert recipe.summary in out


def test_help_names_every_command(manyloss):
    code, out, _ = manyloss("--help")
    assert code == 0
    for command in ("recipes", "compare", "report", "data"):
        assert command in out


def test_a_comparison_prints_progress_table_and_reasons(finished):
    root, said = finished
    assert "equal is added" in said
    assert "6 methods x 2 seeds, 2 epochs each, 12 of 12 trials to run" in said
    assert "[12/12]" in said
    assert "vs equal" in said
    assert "single:ink" in said
    assert "fail seed 0 crashed: RuntimeError: the fifth step is too much" in said
    assert "explode seed 1 diverged: epoch 1, step" in said
    assert "log.txt" in said
    assert f"Report: {root / 'report.html'}" in re.sub(r"\n", "", said)
    assert (root / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert len(list(root.glob("trials/*/*/result.json"))) == 12


def test_the_same_command_again_trains_nothing(finished, manyloss, tmp_path):
    root = shutil.copytree(finished[0], tmp_path / "run")
    code, out, _ = manyloss(*COMPARISON, "--out", root)
    assert code == cli.CRASHED_TRIALS
    assert "0 of 12 trials to run" in out
    assert "vs equal" in out


def test_report_reads_and_writes_only_the_page(finished, manyloss, tmp_path):
    root = shutil.copytree(finished[0], tmp_path / "run")
    (root / "report.html").unlink()
    code, out, _ = manyloss("report", root)
    assert code == 0
    assert "vs equal" in out
    assert (root / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "gradnorm-toy-3"], "There is no recipe 'gradnorm-toy-3'. Did you mean 'gradnorm-toy-"),
        (["compare", "nothing.py"], "There is no file"),
        (["compare", PROBLEM, "--methods", "mdga"], "no method 'mdga' (in 'mdga'). Did you mean 'mgda'?"),
        (["compare", PROBLEM, "--methods", "graddrop:kk=1"], "has no option 'kk'. Did you mean 'k'?"),
        (["compare", PROBLEM, "--seeds", "many"], "--seeds 'many' is not understood"),
        (["compare", PROBLEM, "--seeds", "0"], "--seeds '0' is not understood"),
        (
            ["compare", PROBLEM, "--seeds", "9" * 20],
            "is not understood. Give how many (--seeds 5, at most 10000)",
        ),
        (["compare", PROBLEM, "--seeds", "9" * 5000], "is not understood"),
        (["compare", PROBLEM, "--seeds", "1,99999999999"], "each below 2^32"),
        (["compare", PROBLEM, "--metric", "val/accuracy"], "--metric 'val/accuracy' is not understood"),
        (["compare", PROBLEM, "--scale", "small"], "does not take --scale"),
        (["compare", PROBLEM, "--data", "mnist"], "DigitAndInk does not take --data"),
        (["compare", PROBLEM, "--option", "width"], "--option 'width' is not understood. Write it as"),
        (
            ["compare", "gradnorm-nyuv2-kpts", "--option", "widht=4"],
            "does not take --option widht: Did you mean 'width'?",
        ),
        (
            ["compare", "cosreg-two-digits", "--data", "digits", "--option", "lr=1"],
            "'cosreg-two-digits' does not take --option lr: Known: data, data_root, images_per_pair, "
            "kernel, pairs.",
        ),
        (
            ["compare", "great-defense-digits", "--option", "train=many"],
            "'great-defense-digits': --option train must be a whole number or none, got the text 'many'.",
        ),
        (
            ["reproduce", "cosreg-nyuv2", "--option", "width=0"],
            "'cosreg-nyuv2': --option width must be finite and at least 1, got 0.",
        ),
        (
            ["compare", "gradnorm-toy-2", "--option", "spread=sd"],
            "'gradnorm-toy-2': spread must be one of 'variance', 'deviation'; received 'sd'.",
        ),
        (
            ["compare", "great-defense-digits", "--option", "sweep=[2]"],
            "'great-defense-digits': eps is in [0, 1] pixel units; received 2.",
        ),
        (["compare", "cosreg-two-digits", "--option", "kernel=4"], "kernel must be odd"),
        (["compare", "cosreg-nyuv2", "--option", "pretrained=no.pth"], "there is no file no.pth"),
        (
            ["compare", "graddrop-pointpillars", "--option", "side=0.0"],
            "'graddrop-pointpillars': side must be a finite number above 0, got 0.0.",
        ),
        (["compare", "cosreg-two-digits", "--scale", "smal"], "no scale 'smal'. Did you mean 'small'?"),
        (["compare", PROBLEM, "--out", "/proc/nowhere"], "Cannot write /proc/nowhere"),
        (["report", "nowhere"], "There is no folder 'nowhere'"),
        (["data", "get", "mnits"], "mnist"),
    ],
)
def test_errors_are_short_and_say_what_to_do(arguments, message, manyloss):
    code, out, err = manyloss(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in out + err


def test_a_broken_problem_ends_with_its_own_traceback(manyloss, tmp_path):
    broken = tmp_path / "my_problem.py"
    broken.write_text(Path(PROBLEM).read_text().replace("nn.Linear(144, 32)", "nn.Lnear(144, 32)"))
    code, out, err = manyloss("compare", broken)
    assert code == 2
    assert "Your problem failed while its model was made." in err
    assert "nn.Lnear(144, 32)" in err
    assert "AttributeError" in err
    assert "manyloss/lab" not in err.replace(str(tmp_path), "")
    assert not (tmp_path / "runs").exists()
    assert "Traceback" not in out
    assert "Every frame: the same command with --traceback." in err
    err = manyloss("compare", broken, "--traceback")[2]
    assert "manyloss/lab" in err.replace(str(tmp_path), "")


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("0,1,7", [0, 1, 7]), ("7,", [7]), ("1", [0])])
def test_seeds_are_a_number_or_a_list(text, seeds):
    assert lab.choose_seeds(text) == seeds


def test_methods_are_split_outside_brackets():
    assert split_methods("equal, graddrop:leak=[0.1,0.5],mgda,") == [
        "equal",
        "graddrop:leak=[0.1,0.5]",
        "mgda",
    ]


def test_a_finished_folder_that_cannot_be_written_is_shown(finished, manyloss, tmp_path, monkeypatch):
    root = shutil.copytree(finished[0], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    def refuse(path, content):
        raise CannotWriteError(f"Cannot write {path}: Read-only file system.")

    # Tests may run as root, for whom every folder can be written.
    monkeypatch.setattr("manyloss.lab.runs.storage.write_bytes", refuse)
    for arguments in (["report", root], [*COMPARISON, "--out", root]):
        code, out, _ = manyloss(*arguments)
        assert code == (0 if arguments[0] == "report" else cli.CRASHED_TRIALS)
        assert "vs equal" in out
        assert f"No report: Cannot write {root / 'report.html'}: Read-only file system." in out
        assert f"`manyloss report {root} --out FILE`" in out
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_the_report_can_be_written_elsewhere(finished, manyloss, tmp_path):
    code, _, _ = manyloss("report", finished[0], "--out", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")


COMMAND = [sys.executable, "-c", "from manyloss.cli import main; main()"]


@pytest.mark.parametrize("way", ["full", "closed", "ascii", "cp1252", "piped"])
def test_output_never_costs_a_result(way, finished, tmp_path):
    """The page is written whatever becomes of what is printed."""
    root = shutil.copytree(finished[0], tmp_path / "run")
    (root / "report.html").unlink()
    command, env = [*COMMAND, "report", str(root)], dict(os.environ)
    if way in ("ascii", "cp1252"):
        env |= {"PYTHONIOENCODING": way, "PYTHONUTF8": "0"}
    if way in ("closed", "full", "piped"):
        redirect = {"closed": ">&-", "full": ">/dev/full", "piped": "| head -1"}[way]
        command = ["bash", "-o", "pipefail", "-c", f'"$@" {redirect}', "bash", *command]
    done = subprocess.run(command, capture_output=True, env=env, timeout=300, check=False)
    assert (root / "report.html").exists()
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if way in ("ascii", "cp1252"):
        assert b"vs equal" in done.stdout


def test_a_damaged_study_is_one_error_with_one_way_out(manyloss, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.json").write_text('{"format": 1')
    code, output, errors = manyloss("report", tmp_path / "run")
    assert (code, output) == (1, "")
    assert errors.count("study.json is damaged") == 1
    assert "run the command that made it again: the trials are found again." in errors
    assert "--out" not in errors


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_options_of_a_script_are_said_to_go_behind_two_dashes(manyloss, command):
    code, _, errors = manyloss(command, "train.py", "--lr", "3e-4")
    assert code == 2
    said = re.sub(r"[│\s]+", " ", errors)
    assert (
        f"No such option: --lr. Arguments of a script go behind --: manyloss {command} train.py -- --lr"
        in said
    )
