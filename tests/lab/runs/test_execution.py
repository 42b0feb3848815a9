import time
from pathlib import Path

import pytest
from rich.console import Console

from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import Execution, cores, share_cores
from manyloss.lab.runs.executors.processes import Processes, how_it_ended
from manyloss.lab.runs.progress import PlainDisplay, display_for, duration
from manyloss.lab.runs.trial import Trial
from tests.lab.runs.test_trial import assert_same_trial, spec


@pytest.fixture
def shown(tmp_path):
    with (tmp_path / "output.txt").open("w", encoding="utf-8") as file:
        yield PlainDisplay(Console(file=file, width=60))


def said(shown):
    shown.console.file.flush()
    return Path(shown.console.file.name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("trials", "jobs"), [(1, None), (30, None), (30, 1), (3, 100)])
def test_cores_are_shared(trials, jobs, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    processes, threads = share_cores(trials, jobs)
    assert 1 <= processes <= trials
    assert threads >= 1
    assert processes * threads <= max(cores(), processes)
    assert processes == min(trials, jobs or cores())


@pytest.mark.parametrize(
    ("limit", "threads"), [("1", 1), ("3", 3), ("100", 8), ("", 8), ("0", 8), ("4,2", 8), ("many", 8)]
)
def test_the_usual_variable_limits_threads(monkeypatch, limit, threads):
    monkeypatch.setattr("manyloss.lab.runs.execution.cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert share_cores(30, 1) == (1, threads)


def test_trials_run_crash_and_are_lost_each_for_itself(tmp_path, shown):
    """One execution, four fates: finished, crashed, killed for good, killed once and gone on."""
    once = str(tmp_path / "was-killed")
    arms = ["killed-once", "fail", "killed", "equal", "gradnorm-static", "gradnorm"]
    specs = [spec(tmp_path, arm, once=once) for arm in arms]
    shown.plan(len(specs), [one.epochs for one in specs])
    requires = {("gradnorm-static", 0): [("gradnorm", 0)]}
    results = Execution(specs, requires, Processes(2), shown).run()

    status = {arm: result["status"] for (arm, _), result in results.items()}
    assert status == {
        "equal": "finished",
        "gradnorm": "finished",
        "gradnorm-static": "finished",
        "killed-once": "finished",
        "fail": "crashed",
        "killed": "crashed",
    }
    assert results["fail", 0]["reason"].startswith(
        "RuntimeError: the fifth step is too much (small_problem.py, line "
    )
    assert results["killed", 0]["reason"].startswith("its process was ended by SIGKILL")
    assert "twice" in results["killed", 0]["reason"]
    # In which process, after which trial, killed or not: a trial is a pure function of its settings.
    for number, arm in ((0, "killed-once"), (3, "equal")):
        here = spec(tmp_path / "here", arm, once=once)
        Trial(here).run()
        assert_same_trial(here.folder, specs[number].folder)
    text = said(shown)
    assert "[6/6]" in text
    assert "killed-once seed 0: its process was ended by SIGKILL" in text
    assert "it goes on after its last epoch" in text
    assert "fail seed 0 crashed: RuntimeError: the fifth step is too much" in text
    assert "equal seed 0 best epoch" in text
    for number in (0, 3):  # the first in a new worker, twice: neither it nor Python itself said anything
        assert not specs[number].folder.joinpath("log.txt").exists()


def test_of_the_last_trials_the_longest_comes_first(tmp_path, shown):
    """By what its arm took in the other seed; else one of them may run last, alone."""
    epochs = {"equal": 1, "pcgrad": 30}
    specs = [spec(tmp_path, arm, seed, epochs[arm]) for seed in (0, 1) for arm in epochs]
    shown.plan(len(specs), [one.epochs for one in specs])
    results = Execution(specs, {}, Processes(1), shown).run()
    assert [*results] == [("equal", 0), ("pcgrad", 0), ("pcgrad", 1), ("equal", 1)]


@pytest.mark.parametrize(
    ("took", "order"),
    [
        ({}, ["equal", "gradnorm", "gradnorm-static"]),  # nothing is known yet: as they were given
        ({"equal": 5, "gradnorm": 1, "gradnorm-static": 9}, ["gradnorm", "gradnorm-static", "equal"]),
        ({"equal": 5, "gradnorm": 1, "gradnorm-static": 3}, ["equal", "gradnorm", "gradnorm-static"]),
        ({"equal": 5, "gradnorm": 1}, ["gradnorm", "gradnorm-static", "equal"]),  # it may take any time
        ({"equal": None, "gradnorm": 1, "gradnorm-static": 3}, ["gradnorm", "gradnorm-static", "equal"]),
    ],
)
def test_a_trial_is_as_long_as_what_waits_for_it(took, order, tmp_path, shown):
    """``None``: it crashed."""
    specs = [spec(tmp_path, arm, 1) for arm in ("equal", "gradnorm", "gradnorm-static")]
    requires = {("gradnorm-static", 1): [("gradnorm", 1)]}
    execution = Execution(specs, requires, Processes(2), shown)
    results = {(arm, 0): {} if seconds is None else {"seconds": seconds} for arm, seconds in took.items()}
    assert [one.arm for one in execution.in_order(specs, results)] == order


def test_a_trial_that_hangs_is_ended(tmp_path, shown):
    """Its first step sleeps for an hour."""
    hanging = spec(tmp_path, "equal", pause=3600.0)
    shown.plan(1, [3])
    results = Execution([hanging], {}, Processes(1), shown, timeout=20.0).run()
    reason = results["equal", 0]["reason"]
    assert results["equal", 0]["status"] == "crashed"
    assert reason.startswith("it took longer than --trial-timeout 20 (seconds); its last sign of life was ")
    assert storage.read_result(hanging.folder)["reason"] == reason


def test_a_silent_trial_is_shown_as_one(shown):
    shown.plan(1, [3])
    shown.follow("a seed 0", 1.0, 3, {})
    shown.silent("a seed 0", 30.0)
    assert shown.silence("a seed 0") == ""
    shown.silent("a seed 0", 130.0)
    assert shown.silence("a seed 0") == "silent for 2 min 10 s"
    shown.follow("a seed 0", 1.5, 3, {})
    assert shown.silence("a seed 0") == ""


def test_of_many_losses_a_line_shows_the_first(shown, monkeypatch):
    monkeypatch.setattr("manyloss.lab.runs.progress.LINE_EVERY", 0.0)
    shown.plan(1, [3])
    many = {f"loss {i}": i / 7 for i in range(139)}
    shown.follow("a seed 0", 1.0, 3, dict(list(many.items())[:6]))
    shown.follow("a seed 0", 2.0, 3, many)
    shown.end("a seed 0", 3, {"status": "finished", "validation": many, "best_epoch": 2, "seconds": 1.0})
    few, line, last = said(shown).splitlines()
    assert few.startswith("  a seed 0: 1.0 of 3 epochs  loss 0 0  loss 1 0.143  ")
    assert few.endswith("  loss 5 0.714")
    assert line == few.replace("1.0 of", "2.0 of") + "  and 133 more"
    assert "loss 5 0.7143, and 133 more (1 s" in last


def test_of_many_options_a_line_shows_the_first(shown):
    result = {"status": "finished", "validation": {}, "best_epoch": 1, "seconds": 1.0}
    shown.plan(3, [1, 1, 1])
    options = [f":loss {i}={i}" for i in range(139)]
    for label in (f"static{''.join(options)} seed 4", f"static{''.join(options[:6])} seed 4", "equal seed 4"):
        shown.end(label, 1, result)
    shown.again(f"static{''.join(options)} seed 4", "lost")
    initial = {f"loss {i}": float(i) for i in range(9)}  # one option, whatever its value holds
    shown.again(f"gradnorm:alpha=1.5:initial={initial} seed 4", "lost")
    many, six, none, again, one = said(shown).splitlines()
    assert one.startswith(f"gradnorm:alpha=1.5:initial={initial} seed 4: lost")
    first = "static" + "".join(options[:6])
    assert many.startswith(f"[1/3] {first}:and 133 more, seed 4 best epoch 1")
    assert six.startswith(f"[2/3] {first} seed 4 best epoch")
    assert none.startswith("[3/3] equal seed 4 best epoch")
    assert again.startswith(f"{first}:and 133 more, seed 4: lost; it goes on")


def test_words_for_a_lost_process():
    assert how_it_ended(-9).startswith("its process was ended by SIGKILL (the system does this")
    assert how_it_ended(-11).startswith("its process was ended by SIGSEGV (a fault in native code")
    assert how_it_ended(-34) == "its process was ended by SIGRTMIN"
    assert how_it_ended(3) == "its process ended with code 3"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


def test_the_time_left_follows_the_epochs(shown):
    shown.plan(trials=4, missing=[10, 10])
    assert shown.left() is None
    shown.started = time.monotonic() - 60
    shown.follow("a seed 0", 5.0, 10, {})  # resumed at epoch 5: what is left is 15 epochs
    assert shown.total == 15
    shown.follow("a seed 0", 10.0, 10, {})
    assert shown.left() == pytest.approx(120, rel=0.01)


def test_a_teacher_of_more_epochs_than_its_students_leaves_time_to_the_end(shown):
    shown.plan(trials=3, missing=[20, 5, 5])
    shown.started = time.monotonic() - 60
    for label, epochs, left in (("teacher", 20, 30), ("equal", 5, 12), ("great", 5, 0)):
        shown.follow(f"{label} seed 0", 0.0, epochs, {})
        shown.end(f"{label} seed 0", epochs, {"status": "pruned", "reason": "it"})
        assert shown.left() == pytest.approx(left, rel=0.01)


def test_a_pipe_gets_lines_and_a_terminal_gets_bars(tmp_path):
    with (tmp_path / "x").open("w") as file:
        assert isinstance(display_for(Console(file=file)), PlainDisplay)
        live = display_for(Console(file=file, force_terminal=True, width=100))
        live.plan(2, [10, 10])
        with live:
            live.follow("equal seed 0", 2.5, 10, {"left": 0.123})
            live.follow("mgda seed 0", 1.0, 10, {})
        live.console.print(live._draw())
    text = (tmp_path / "x").read_text()
    assert "equal seed 0" in text
    assert "2/10" in text
    assert "left 0.123" in text
    assert "0 of 2 trials" in text
