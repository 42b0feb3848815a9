"""Readings: drawn with a seed, judged by the same rule, and summed up by what decides."""

import fnmatch
import inspect
import io
import itertools
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from manyloss import cli, lab
from manyloss.lab import claims
from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.arms import choose_arms, known_arms
from manyloss.lab.checks import LabError
from manyloss.lab.claims import readings
from manyloss.lab.claims.judging import Finding, Verdict
from manyloss.lab.recipes import recipe_named
from manyloss.lab.reports.readings import write_readings
from manyloss.lab.runs import storage
from manyloss.lab.runs.executors.processes import Processes
from manyloss.lab.runs.source import Source
from tests.lab.reports.test_report import Page

TEXT = b"""
claims = ["made", "other-*"]

[rate]
open = "the learning rate"
values = [0.1, 0.2, 0.3]

[optimizer]
open = "the optimiser of w"
values = ["adam", "sgd"]
"""


@pytest.fixture
def opens():
    return readings.read_opens("made.toml", TEXT)[1]


def judged(settings, margin, holds=False):
    outcome = "no result" if margin is None else "holds" if holds else "unclear"
    check = readings.JudgedCheck("it holds", outcome, margin, 0.1)
    return readings.Judged(settings, "on substitute: unclear", 3, (check,))


def test_the_grid_starts_with_the_reading_in_force_and_a_sample_is_seeded(opens):
    grid = readings.chosen(opens, None)
    assert len(grid) == 6
    assert grid[0] == {"rate": 0.1, "optimizer": "adam"}
    few = readings.chosen(opens, 3)
    assert few == readings.chosen(opens, 3)
    assert few[:2] == readings.chosen(opens, 2)  # --readings 3 after --readings 2 tries one more
    assert few[0] == grid[0]
    assert len({json.dumps(each) for each in few}) == 3
    assert readings.chosen(opens, 1) == grid[:1]
    assert readings.chosen(opens, 99) == grid


def open_things(*numbers):
    return [readings.Open(f"open{i}", f"{i}", tuple(range(number))) for i, number in enumerate(numbers)]


def overlap(drawn):
    """The largest Cramer's V^2 of two open things: 1 where they cannot be told apart, 0 in the whole grid."""
    found = []
    for one, other in itertools.combinations(drawn[0], 2):
        table = Counter((each[one], each[other]) for each in drawn)
        rows, columns = Counter(each[one] for each in drawn), Counter(each[other] for each in drawn)
        expected = {(r, c): rows[r] * columns[c] / len(drawn) for r in rows for c in columns}
        chi2 = sum((table[place] - number) ** 2 / number for place, number in expected.items())
        found.append(chi2 / len(drawn) / (min(len(rows), len(columns)) - 1))
    return max(found)


@pytest.mark.parametrize(
    ("numbers", "few"), [((2, 2, 2), 5), ((3, 2, 2, 2, 2, 2), 11), ((3, 2, 2, 2, 2, 2), 18), ((4, 4, 2), 16)]
)
def test_a_few_readings_tell_apart_what_is_open(numbers, few):
    opens = open_things(*numbers)
    chosen = fmean(overlap(readings.chosen(opens, few, seed)) for seed in range(20))
    rest = readings.chosen(opens, None)[1:]
    at_random = fmean(overlap(random.Random(seed).sample(rest, few)) for seed in range(20))
    assert chosen < at_random / 2


def test_one_open_thing_has_no_pairs():
    few = readings.chosen(open_things(4), 3)
    assert few[0] == {"open0": 0}
    assert len({each["open0"] for each in few}) == 3


def test_eta_squared_finds_what_decides(opens):
    found = [
        judged(settings, (1.0 if settings["optimizer"] == "sgd" else -1.0) + 0.1 * (settings["rate"] == 0.2))
        for settings in readings.chosen(opens, None)
    ]
    shares = readings.summed_up(opens, found).decides
    # By hand: margins are +-1 with 0.1 more for one of three rates; the effects are independent.
    total = 6 * 1.0 + 6 * (0.1**2 * 2 / 9)
    assert shares["optimizer"] == pytest.approx(6 / total)
    assert shares["rate"] == pytest.approx(6 * (0.1**2 * 2 / 9) / total)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_sentence_counts_what_holds_and_names_what_decides(opens):
    grid = readings.chosen(opens, None)
    sgd = [each["optimizer"] == "sgd" for each in grid]
    found = [judged(each, float(better), better) for each, better in zip(grid, sgd, strict=True)]
    found[-1] = judged(grid[-1], None)
    text = str(readings.summed_up(opens, found))
    assert text.startswith("holds under 2 of 5 readings, with 3 seeds each (1 more without a result)")
    assert text.endswith("; what decides most is the optimiser of w (100% of the variance)")
    few = readings.summed_up(opens, found[:4])  # a mean, two effects of the rate, one of the optimiser
    assert (
        str(few)
        == "holds under 2 of 4 readings, drawn from 6, with 3 seeds each; to say what decides takes 5"
    )
    drawn = str(readings.summed_up(opens, found[:5]))
    assert drawn.startswith("holds under 2 of 5 readings, drawn from 6, with 3 seeds each; what decides most")
    assert drawn.endswith("of the variance; in a draw the shares overlap)")
    same = [judged(each, 1.0, True) for each in readings.chosen(opens, None)]
    alike = "holds under 6 of 6 readings, with 3 seeds each; they differ by no more than noise"
    assert str(readings.summed_up(opens, same)) == alike
    once = [
        replace(each, seeds=1, checks=tuple(replace(check, half_width=None) for check in each.checks))
        for each in same
    ]
    assert str(readings.summed_up(opens, once)) == "holds under 6 of 6 readings, with 1 seed each"


def of_two_checks(opens):
    """The first check holds where the optimiser is sgd, the second fails by the rate."""
    found = []
    for number, settings in enumerate(readings.chosen(opens, None)):
        sgd = settings["optimizer"] == "sgd"
        first = readings.JudgedCheck("it is better", "holds" if sgd else "unclear", 1.0 if sgd else -0.1, 0.2)
        second = readings.JudgedCheck("it is best", "fails", -settings["rate"], 0.01)
        lost = readings.JudgedCheck("it is best", "no result", None, None)
        found.append(readings.Judged(settings, "unclear", 3, (first, lost if number == 5 else second)))
    return readings.summed_up(opens, found)


def test_nothing_decides_where_readings_differ_by_no_more_than_noise(opens, tmp_path):
    """A half width of 0.1 over 3 seeds is a deviation of 0.04."""
    grid = readings.chosen(opens, None)
    for size, alike in ((0.05, True), (0.3, False)):
        found = [judged(each, size * (each["optimizer"] == "sgd")) for each in grid]
        tried = readings.summed_up(opens, found)
        assert (tried.alike, tried.decides == {}) == (alike, alike)
        assert str(tried).endswith("; they differ by no more than noise") == alike
        assert readings.record_of_readings(tried)["alike"] is alike
    two = [
        replace(each, checks=(*each.checks, replace(each.checks[0], says="it is best", margin=1.0)))
        for each in found
    ]
    tried = readings.summed_up(opens, two)
    said = claims.lines_of(
        Verdict(claims.claim_named("gradnorm-toy-2"), "small", False, 3, "unclear", (), readings=tried)
    )
    assert said[-1] == "  holds 0, fails 0 of 6, alike but for noise: it is best"
    page = Page(write_readings(tmp_path, claims.claim_named("gradnorm-toy-2"), tried).read_text())
    assert "nothing beyond noise" in page.words()


def test_each_check_is_counted_over_the_readings_by_itself(opens):
    tried = of_two_checks(opens)
    assert str(tried).startswith(
        "holds under 0 of 5 readings, with 3 seeds each (1 more without a result); what decides most is"
    )
    first, second = tried.by_check().values()
    assert [first.count(each) for each in readings.OUTCOMES] == [3, 0, 3, 0]
    assert [second.count(each) for each in readings.OUTCOMES] == [0, 5, 0, 1]
    assert [each.outcome for each in second.judged] == 5 * ["fails"] + ["no result"]
    assert first.decides_most() == ("the optimiser of w", pytest.approx(1.0))
    assert second.decides_most()[0] == "the learning rate"
    assert first.by_check() == {}
    assert readings.summed_up(opens, first.judged).by_check() == {}
    record = readings.record_of_readings(tried)
    better, best = record["checks"]
    assert (better["says"], better["holds"], better["unclear"]) == ("it is better", 3, 3)
    assert better["margins"] == [each.checks[0].margin for each in tried.judged]
    assert best["share of the variance"] == dict(second.decides)
    assert tried.judged[-1].of_check("another").margin is None
    json.dumps(record)


def test_a_verdict_says_each_check_over_its_readings(opens, tmp_path):
    claim = claims.claim_named("gradnorm-toy-2")
    tried = of_two_checks(opens)
    said = claims.lines_of(Verdict(claim, "small", False, 3, "unclear", (), readings=tried))
    assert said[-3] == f"The claim {tried}."
    assert said[-2] == "  holds 3, fails 0 of 6, mostly by the optimiser of w (100%): it is better"
    assert said[-1].startswith("  holds 0, fails 5 of 6, mostly by the learning rate (")
    page = Page(write_readings(tmp_path, claim, tried).read_text())
    labels = [each["aria-label"] for each in page.all("div", role="img")]
    assert [label.partition(" by reading")[0] for label in labels] == [
        "Margin of the weakest check",
        "Margin of the check 'it is better'",
        "Margin of the check 'it is best'",
    ]
    assert "Check by check" in page.words()


def finding(relation, difference, against, within=0.0, outcome="holds"):
    check = claims.Check("it holds", "a", "b", relation, "loss", within=within)
    return Finding(check, outcome, Interval(difference, 0.02, 3), against + difference, against)


@pytest.mark.parametrize(
    ("finding_", "margin"),
    [
        (finding("lower", -0.5, 2.0), 0.25),
        (finding("higher", -0.5, 2.0), -0.25),
        (finding("higher", 0.5, 2.0, within=0.1), 0.2),
        (finding("near", 0.04, 0.5, within=0.05), 0.02),
        (finding("near", -0.1, 0.5, within=0.05), -0.1),
        (finding("lower", -0.5, 0.0), 0.5),
    ],
)
def test_a_margin_is_relative_and_signed_by_the_claim(finding_, margin):
    claim = claims.claim_named("gradnorm-toy-2")
    verdict = Verdict(claim, "small", False, 3, "on substitute: agrees", (finding_,))
    assert readings.judged({}, verdict).margin == pytest.approx(margin)


def test_the_weakest_check_counts_and_a_missing_one_is_no_result():
    claim = claims.claim_named("gradnorm-toy-2")
    strong, weak = finding("lower", -1.0, 2.0), finding("lower", 0.2, 2.0, outcome="fails")
    verdict = Verdict(claim, "small", False, 3, "on substitute: disagrees", (strong, weak))
    found = readings.judged({"rate": 1}, verdict)
    assert (found.margin, found.holds) == (pytest.approx(-0.1), False)
    lost = replace(verdict, findings=(strong, Finding(weak.check, "no result", None, None, None)))
    assert readings.judged({}, lost).margin is None
    assert readings.judged({}, replace(verdict, findings=(strong,))).holds


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[rate]\nvalues = [1, 2]", "'open'"),
        (b"[rate", "Expected"),
        (b'[rate]\nopen = "x"\nvalues = [1]', r"'rate' has the values \[1\]. Give 2 to 4 different ones"),
        (b'[rate]\nopen = "x"\nvalues = [1, 1]', "Give 2 to 4 different ones"),
        (b'[rate]\nopen = "x"\nvalues = [1, 2, 3, 4, 5]', "Give 2 to 4 different ones"),
    ],
)
def test_a_file_that_is_not_understood_is_named(content, reason):
    with pytest.raises(LabError, match=rf"The readings made.toml are not understood: .*{reason}"):
        readings.read_opens("made.toml", b'claims = ["made"]\n' + content)


def test_a_file_names_its_claims():
    assert readings.read_opens("made.toml", TEXT)[0] == ("made", "other-*")
    with pytest.raises(LabError, match=r"The readings made.toml are not understood: 'claims'"):
        readings.read_opens("made.toml", b'[rate]\nopen = "x"\nvalues = [1, 2]')


def test_a_reading_sets_what_goes_along_too():
    opens = (
        readings.Open("epochs", "how long", (1, 2)),
        readings.Open("gradnorm.alpha", "alpha", (1.5, 0.5), ("both.alpha",)),
    )
    found = readings.options_of_reading(opens, {"epochs": 2, "gradnorm.alpha": 0.5})
    assert found == {"gradnorm.alpha": 0.5, "both.alpha": 0.5}
    assert readings.options_of_reading(opens, {"epochs": 2, "gradnorm.alpha": 1.5}) == {}


def files_of_readings():
    folder = resources.files("manyloss.lab.claims") / "readings"
    return [readings.read_opens(path.name, path.read_bytes()) for path in folder.iterdir()]


def test_every_claim_has_readings_in_one_file_and_every_file_has_claims():
    files = files_of_readings()
    for name in claims.all_claims():
        listed = [opens for patterns, opens in files if any(fnmatchcase(name, each) for each in patterns)]
        assert listed == [claims.readings_of(name)], name
        assert listed[0]
    for patterns, _ in files:
        assert all(fnmatch.filter(claims.all_claims(), each) for each in patterns)


@pytest.mark.parametrize("name", claims.all_claims())
def test_every_reading_is_an_option_whose_first_value_is_in_force(name):
    """So the first reading is the run itself; and under each, the rule's arms keep their names."""
    claim = claims.claim_named(name)
    recipe = recipe_named(claim.recipe)
    smoke = {key: value for key, value in recipe.scales["smoke"].items() if key not in ("epochs", "seeds")}
    known = known_arms(Source(recipe.name, smoke).load())
    own = {}  # a subclass passes on what it does not name
    for maker in recipe.problem.__mro__[::-1] if isinstance(recipe.problem, type) else [recipe.problem]:
        own |= inspect.signature(maker).parameters
    for each in claims.readings_of(name):
        if each.option == "epochs":
            assert each.values[0] == 1
            continue
        for option in (each.option, *each.also):
            arm, _, of_arm = option.partition(".")
            if of_arm:
                assert known[arm].options[of_arm] == each.values[0], option
            else:
                assert own[option].default == each.values[0], option
            assert all(option not in scale for scale in recipe.scales.values()), option
        for value in each.values:
            options = readings.options_of_reading((each,), {each.option: value})
            read = Source(recipe.name, {**smoke, **options}).load()
            assert [arm.name for arm in choose_arms(claim.arms, read)] == list(claim.arms)


def test_the_page_draws_every_reading_and_says_the_sentence(opens, tmp_path):
    found = [judged(each, 0.1 * each["rate"] - 0.02, False) for each in readings.chosen(opens, None)]
    tried = readings.summed_up(opens, [judged(found[0].settings, None), *found[1:]])
    page = Page(write_readings(tmp_path, claims.claim_named("gradnorm-toy-2"), tried).read_text())
    assert str(tried) in page.words()
    (label,) = [each["aria-label"] for each in page.all("div", role="img")]
    assert label.count("%") == 5
    nothing = readings.summed_up(opens, [judged(each.settings, None) for each in found])
    page = Page(write_readings(tmp_path, claims.claim_named("gradnorm-toy-2"), nothing).read_text())
    assert page.all("div", role="img") == []


def test_readings_are_asked_for_by_a_number_or_all():
    with pytest.raises(LabError, match=r"--readings 'some' is not understood. Give how many .* or all"):
        lab.reproduce("graddrop-sines", readings="some")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"reading_seeds": 2}, "--reading-seeds is for --readings, which is not given"),
        ({"readings": 2, "reading_seeds": 3}, "--reading-seeds 3 is not between 1 and the run's 2 seeds"),
        ({"readings": 2, "reading_seeds": 0}, "--reading-seeds 0 is not between 1 and the run's 2 seeds"),
    ],
)
def test_seeds_of_readings_are_among_those_of_the_run(asked, reason, tmp_path):
    with pytest.raises(LabError, match=reason):
        lab.reproduce("graddrop-sines", scale="smoke", seeds=2, out=tmp_path / "sines", **asked)
    assert not (tmp_path / "sines").exists()


@pytest.mark.slow
def test_readings_take_the_trials_of_another_claims_readings(tmp_path):
    """Two claims on the two digits share four of their rows, in each reading."""

    def reproduce(claim):
        name = f"cosreg-two-digits-{claim}"
        lab.reproduce(name, scale="smoke", seeds=1, readings=2, jobs=2, out=tmp_path / claim)
        folder = tmp_path / claim
        (reading,) = (folder / "readings").iterdir()
        return folder, reading

    single, its_reading = reproduce("single")
    sigma, reading = reproduce("sigma")
    assert reading.name == its_reading.name
    for arm in ("equal", "batchnorm", "cosreg", "cosreg-batchnorm"):
        for there, here in ((single, sigma), (its_reading, reading)):
            result = storage.trial_folder(Path(), arm, 0) / "result.json"
            assert (there / result).read_bytes() == (here / result).read_bytes()
    notes = [storage.read_json(folder / "study.json")["settings"] for folder in (sigma, reading)]
    assert [note["taken over"] for note in notes] == [
        {"single": 4},
        {f"single/readings/{its_reading.name}": 4},
    ]


class Counting(Processes):
    """Processes of this machine that count."""

    def __init__(self):
        super().__init__(2)
        self.started, self.closed = [], 0

    def start(self, spec):
        self.started.append(spec.root)
        return super().start(spec)

    def close(self):
        self.closed += 1
        super().close()


@pytest.mark.slow
def test_readings_run_where_the_claim_runs(tmp_path):
    executor, folder = Counting(), tmp_path / "sines"
    lab.reproduce("graddrop-sines", scale="smoke", seeds=1, readings=2, out=folder, executor=executor)
    (reading,) = (folder / "readings").iterdir()
    assert Counter(executor.started) == {folder: 7, reading: 7}
    assert executor.closed == 1

    class Interrupted(Counting):
        def start(self, spec):
            raise KeyboardInterrupt

    stopped, text = Interrupted(), io.StringIO()
    asked = {"readings": 3, "out": folder, "executor": stopped, "console": Console(file=text, width=1000)}
    with pytest.raises(KeyboardInterrupt):
        lab.reproduce("graddrop-sines", scale="smoke", seeds=1, **asked)
    assert "Stopped in reading 3 of 3. Run the same command again: it goes on after" in text.getvalue()
    assert stopped.closed == 1


@pytest.mark.slow
def test_readings_are_run_judged_recorded_and_resumed(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "sines"
    words = ["reproduce", "graddrop-sines", "--scale", "smoke", "--seeds", "3", "--out", str(folder)]
    words += ["--reading-seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["manyloss", *words, "--jobs", "1", "--readings", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of 2 readings, drawn from 9, with 2 seeds each" in said
    assert "3 seeds, rule" in said
    record = json.loads((folder / "claim.json").read_text())["readings"]
    assert [len(each) for each in record["judged"]] == [5, 5]
    assert record["seeds"] == 2
    assert record["judged"][0][:2] == [10.0, 1]
    (other,) = (folder / "readings").iterdir()
    made = {path: path.stat().st_mtime_ns for path in other.rglob("result.json")}
    assert len(made) == 14
    with pytest.raises(SystemExit):
        cli.main()
    assert {path: path.stat().st_mtime_ns for path in other.rglob("result.json")} == made
    assert json.loads((folder / "claim.json").read_text())["readings"] == record

    # A trial that crashed is said, and is not a success; it gets another try when asked for.
    broken = storage.trial_folder(other, "graddrop", 1) / "result.json"
    whole = broken.read_bytes()
    storage.write_json(broken, {"status": "crashed", "reason": "bad luck"})
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.CRASHED_TRIALS
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 14 trials of this reading crashed, and checks of it have no result" in said
    assert "result; graddrop seed 1: bad luck. --retry lets them go on." in said
    words.append("--retry")
    monkeypatch.setattr(sys, "argv", ["manyloss", *words, "--jobs", "1", "--readings", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert json.loads(broken.read_bytes())["test"] == json.loads(whole)["test"]
