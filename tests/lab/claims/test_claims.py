"""Claims: rules are read, applied in both directions, and bound to the results by their hash."""

import json
import re
from pathlib import Path

import pytest

from manyloss import lab
from manyloss.diagnostics.running import pair_name
from manyloss.lab import claims
from manyloss.lab.analysis.results import pair_names
from manyloss.lab.arms import choose_arms
from manyloss.lab.checks import LabError
from manyloss.lab.claims import judging
from manyloss.lab.claims.rule import SIGMA
from manyloss.lab.problem import Problem
from manyloss.lab.recipes import recipe_named
from manyloss.lab.runs import storage
from manyloss.lab.runs.packing import SUFFIX, unpack

RESULTS = Path(__file__).parents[3] / "results"

RULE = b"""
recipe = "cosreg-two-digits"
claim = "b beats a and comes near the paper."
paper = "A paper (2020), table 1"
arms = ["a", "b"]

[[checks]]
says = "b is better than a"
arm = "b"
than = "a"
is = "higher"
quantity = "accuracy"

[[checks]]
says = "the first weight grows"
arm = "b"
than = 1.0
is = "higher"
of = "mean_weights"
quantity = "left"

[[checks]]
says = "b reaches the paper's number"
arm = "b"
than = 0.9
is = "near"
within = 0.05
quantity = "accuracy"
only = "full"

[paper_numbers]
b = { "accuracy" = 0.9 }
"""


class Papers(Problem):
    name = "papers"


class Substitute(Problem):
    name = "substitute"

    def has_papers_data(self):
        return False


@pytest.fixture
def claim():
    return claims.read_rule("made.toml", RULE)


def write_run(root, claim, accuracies, weight=1.2, rule=None, warned=None):
    root.mkdir(parents=True, exist_ok=True)
    source = {"recipe": "made", "options": {"width": 8}}
    settings = {"rule": rule or claim.rule, "source": source}
    storage.write_json(root / "study.json", {"settings": settings, "epochs": 3})
    for arm, values in accuracies.items():
        for seed, value in enumerate(values):
            folder = storage.trial_folder(root, arm, seed)
            folder.mkdir(parents=True)
            result = {
                "status": "finished" if value is not None else "diverged",
                "test": {"accuracy": value} if value is not None else {},
                "mean_weights": {"left": weight},
                "seconds": 2.0,
                "remarks": ["masking suspected"] if arm == "b" else [],
                "words": {"gradient masking": "suspected"} if arm == "b" else {},
                "warnings": (warned or {}).get(seed, {}) if arm == "b" else {},
            }
            storage.write_json(folder / "result.json", result)
    return root


def judged(root, claim, problem=Substitute, scale="small", seeds=(0, 1, 2)):
    return claims.judge(claim, root, problem(), scale=scale, seeds=seeds)


BETTER = {"a": [0.80, 0.81, 0.79], "b": [0.895, 0.905, 0.89]}
WORSE = {"a": BETTER["b"], "b": BETTER["a"]}


def test_what_holds_on_a_substitute_agrees(tmp_path, claim):
    verdict = judged(write_run(tmp_path, claim, BETTER), claim)
    assert [finding.outcome for finding in verdict.findings] == ["holds", "holds"]
    assert verdict.word == "on substitute: agrees"
    assert verdict.findings[0].difference.mean == pytest.approx(0.09667, abs=1e-4)


def test_what_warned_in_training_is_among_the_reasons(tmp_path, claim):
    said = "The discriminator is right on … of the gradients."
    warned = {0: {said: 40}, 2: {said: 42}}
    why = judged(write_run(tmp_path, claim, WORSE, warned=warned), claim).why
    assert why[0].startswith("Contradicted here")
    assert why[-1] == f"b: {said} (warned 40 to 42 times in training) (seed 0, 2)"


def test_what_the_problem_knows_is_among_the_reasons(tmp_path, claim):
    class Knowing(Substitute):
        def reasons(self, trials):
            return [f"{arm}: {len(found)} seeds" for arm, found in trials.items()]

    why = judged(write_run(tmp_path, claim, WORSE), claim, problem=Knowing).why
    assert why[-2:] == ("a: 3 seeds", "b: 3 seeds")


def test_what_fails_on_a_substitute_disagrees(tmp_path, claim):
    verdict = judged(write_run(tmp_path, claim, WORSE), claim)
    assert verdict.findings[0].outcome == "fails"
    assert verdict.word == "on substitute: disagrees"


def test_one_seed_can_tell_nothing(tmp_path, claim):
    root = write_run(tmp_path, claim, {"a": [0.1], "b": [0.9]})
    verdict = judged(root, claim, seeds=[0])
    assert [finding.outcome for finding in verdict.findings] == ["unclear", "unclear"]
    assert verdict.word == "on substitute: unclear"


def test_a_lost_trial_is_no_result_and_never_agreement(tmp_path, claim):
    root = write_run(tmp_path, claim, {"a": BETTER["a"], "b": [0.9, None, 0.9]})
    verdict = judged(root, claim)
    assert [finding.outcome for finding in verdict.findings] == ["no result", "no result"]
    assert verdict.word == "on substitute: unclear"
    assert judged(root, claim, Papers, "full").word == "unclear"


@pytest.mark.parametrize(
    ("accuracies", "word"),
    [
        (BETTER, "reproduced"),
        (WORSE, "not reproduced"),
        ({"a": BETTER["a"], "b": [0.95, 0.96, 0.955]}, "partly"),
    ],
)
def test_words_at_full_scale_on_the_papers_data(tmp_path, accuracies, word):
    without_weight = (
        RULE.replace(RULE[RULE.index(b'[[checks]]\nsays = "the first') :], b"")
        + RULE[RULE.index(b'[[checks]]\nsays = "b reaches') :]
    )
    claim = claims.read_rule("made.toml", without_weight)
    verdict = judged(write_run(tmp_path, claim, accuracies), claim, Papers, "full")
    assert verdict.papers_setting
    assert verdict.word == word


@pytest.mark.parametrize(("problem", "scale"), [(Substitute, "full"), (Papers, "small"), (Papers, None)])
def test_the_papers_own_numbers_are_asked_for_in_the_papers_setting_only(tmp_path, claim, problem, scale):
    verdict = judged(write_run(tmp_path, claim, BETTER), claim, problem, scale)
    assert not verdict.papers_setting
    assert verdict.word.startswith("on substitute: ")
    assert "b reaches the paper's number" not in [finding.check.says for finding in verdict.findings]


def test_what_the_paper_says_of_another_problem_has_no_setting_of_the_papers(tmp_path):
    claim = claims.read_rule("made.toml", b"on_substitute = true\n" + RULE)
    verdict = judged(write_run(tmp_path, claim, BETTER), claim, Papers, "full")
    assert not verdict.papers_setting
    assert verdict.word == "on substitute: agrees"


@pytest.mark.parametrize(
    ("accuracies", "outcome"),
    [
        ([0.9, 0.905, 0.895], "holds"),
        ([0.94, 0.90, 0.86], "unclear"),  # the mean is near, the interval is not
        ([0.97, 0.971, 0.969], "fails"),
        ([0.9], "unclear"),
    ],
)
def test_near_asks_the_interval_as_every_check_does(tmp_path, claim, accuracies, outcome):
    root = write_run(tmp_path, claim, {"a": accuracies, "b": accuracies})
    verdict = judged(root, claim, Papers, "full", seeds=range(len(accuracies)))
    (found,) = [f.outcome for f in verdict.findings if f.check.relation == "near"]
    assert found == outcome


def test_a_quantity_can_be_judged_by_its_correlation_with_another(tmp_path):
    checks = b"""
[[checks]]
says = "the accuracy falls with the distance"
arm = "b"
than = 0.0
is = "lower"
quantity = "accuracy"
along = "distance"
"""
    claim = claims.read_rule("made.toml", RULE[: RULE.index(b"[[checks]]")] + checks)
    root = write_run(tmp_path, claim, {"a": [0.5] * 8, "b": [0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.4, 0.45]})
    assert judged(root, claim, seeds=range(8)).findings[0].outcome == "no result"
    for seed in range(8):
        path = storage.trial_folder(root, "b", seed) / "result.json"
        result = json.loads(path.read_text())
        result["test"]["distance"] = float(seed)
        storage.write_json(path, result)
    finding = judged(root, claim, seeds=range(8)).findings[0]
    assert finding.outcome == "holds"
    assert finding.value == pytest.approx(-(1 - 6 * 2 / (8 * 63)))  # two neighbours are swapped
    assert judged(root, claim, seeds=range(3)).findings[0].outcome == "unclear"
    with pytest.raises(LabError, match="has along, so than must be a number"):
        claims.read_rule("made.toml", RULE[: RULE.index(b"[[checks]]")] + checks.replace(b"0.0", b'"a"'))


def test_a_correlation_over_arms_takes_each_arm_once(tmp_path):
    checks = b"""
[[checks]]
says = "the accuracy falls with sigma"
arm = "row-*"
than = 0.0
is = "lower"
quantity = "accuracy"
along = "left, right"
along_of = "cosine_std_first_epoch"
"""
    head = RULE[: RULE.index(b"[[checks]]")]
    arms = {f"row-{number}": [0.9 - 0.1 * number, 0.95 - 0.1 * number] for number in range(6)}
    named = head.replace(b'["a", "b"]', json.dumps([*arms, "other"]).encode())
    claim = claims.read_rule("made.toml", named + checks)
    root = write_run(tmp_path, claim, {**arms, "other": [1.0, 1.0]})
    assert judged(root, claim, seeds=range(2)).findings[0].outcome == "no result"
    for number in range(6):
        for seed in range(2):
            path = storage.trial_folder(root, f"row-{number}", seed) / "result.json"
            spread = {pair_name("left", "right"): 0.1 * number}
            storage.write_json(path, json.loads(path.read_text()) | {"cosine_std_first_epoch": spread})
    finding = judged(root, claim, seeds=range(2)).findings[0]
    assert (finding.outcome, finding.value, finding.difference.count) == ("holds", pytest.approx(-1), 6)
    with pytest.raises(LabError, match="is not understood"):
        claims.read_rule("made.toml", named + checks.replace(b"cosine_std_first_epoch", b"elsewhere"))


def test_a_spread_of_the_paper_stands_beside_ours(tmp_path):
    check = b"""
[[checks]]
says = "the cosine varies less"
arm = "b"
than = "a"
is = "lower"
of = "cosine_std"
quantity = "left, right"

[paper_numbers]
a = { "sigma of left, right" = 0.27 }
b = { "sigma of left, right" = 0.26 }
"""
    claim = claims.read_rule("made.toml", RULE[: RULE.index(b"[[checks]]")] + check)
    root = write_run(tmp_path, claim, {"a": [0.8, 0.8], "b": [0.9, 0.9]})
    pair = pair_name("left", "right")
    for arm, spreads in (("a", (0.3, 0.1)), ("b", (0.1, 0.2))):
        for seed, spread in enumerate(spreads):
            path = storage.trial_folder(root, arm, seed) / "result.json"
            kept = json.loads(path.read_text())
            storage.write_json(path, {**kept, "cosine_std": {pair: spread, "left|other": 0.5}})
    verdict = judged(root, claim, seeds=range(2))
    assert verdict.measured["a"] == {"accuracy": 0.8, f"sigma of {pair}": pytest.approx(0.2)}
    assert f"a: sigma of {pair} 0.200 (paper 0.270)" in claims.lines_of(verdict)
    assert verdict.why[0].startswith("Too few seeds: in 1 of 1 unclear checks")


def test_results_are_judged_by_the_rule_that_was_there_before_them(tmp_path, claim):
    write_run(tmp_path, claim, BETTER, rule="0123456789abcdef")
    with pytest.raises(
        LabError, match=rf"made under the rule 0123456789abcdef; the rule is now {claim.rule}"
    ):
        judged(tmp_path, claim)
    storage.write_json(tmp_path / "study.json", {"settings": {}})
    with pytest.raises(LabError, match="made under the rule of no claim"):
        claims.check_folder(claim, tmp_path)
    assert claims.check_folder(claim, tmp_path / "new") is None
    assert claims.read_rule("made.toml", RULE + b"# changed").rule != claim.rule


def test_the_record_keeps_rule_numbers_and_what_was_said(tmp_path, claim):
    root = write_run(tmp_path, claim, BETTER)
    for seed, share in enumerate((0.25, 0.5, 0.75)):
        path = storage.trial_folder(root, "b", seed) / "epochs.jsonl"
        path.write_text(json.dumps({"epoch": 10, "train": {}, "along": {"share": share}}) + "\n")
    record = claims.record_of(judged(root, claim), root)
    assert record["along"] == {"b": {"share": {"10": 0.5}}}
    assert record["rule"] == claim.rule
    assert record["verdict"] == "on substitute: agrees"
    assert record["measured"]["b"]["accuracy"] == pytest.approx(0.89667, abs=1e-4)
    assert record["paper_numbers"] == {"b": {"accuracy": 0.9}}
    assert record["words"]["b"] == [f"seed-{seed}: masking suspected" for seed in range(3)]
    assert record["cells"]["b"] == {"gradient masking": ["suspected"] * 3}
    assert record["seconds"] == 12.0
    assert record["settings"]["source"]["options"] == {"width": 8}


def test_lines_name_every_check_its_numbers_and_the_paper(tmp_path, claim):
    lines = claims.lines_of(judged(write_run(tmp_path, claim, BETTER), claim))
    assert lines[2].startswith("✓ b is better than a (holds: 0.8967 against 0.8, difference +0.0967 ± 0.")
    assert "b: accuracy 0.897 (paper 0.900)" in lines
    assert lines[-1] == (
        f"Verdict: on substitute: agrees (not the paper's setting, scale small, 3 seeds, rule {claim.rule})."
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b'paper = "A paper (2020), table 1"', b""), "'paper'"),
        ((b'is = "higher"', b'is = "greater"'), "is = 'greater'"),
        ((b'than = "a"', b'than = "c"'), r"unknown arms \['c'\]"),
        ((b"[[checks]]", b"[[checks"), "Expected"),
    ],
)
def test_a_rule_that_is_not_one_is_named(change, reason):
    with pytest.raises(LabError, match=rf"The rule made\.toml is not understood: .*{reason}"):
        claims.read_rule("made.toml", RULE.replace(*change))


def test_an_unknown_claim_offers_the_closest():
    with pytest.raises(LabError, match=r"no claim 'gradnorm-toy'\. Did you mean 'gradnorm-toy-"):
        claims.claim_named("gradnorm-toy")


# -- the rules that are there -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", claims.all_claims())
def test_every_rule_fits_its_recipe(name):
    claim = claims.claim_named(name)
    recipe = recipe_named(claim.recipe)
    options = {key: value for key, value in recipe.scales["smoke"].items() if key not in ("epochs", "seeds")}
    problem = recipe.problem(**options)
    chosen = [arm.name for arm in choose_arms(claim.arms, problem)]
    assert chosen == list(claim.arms)
    assert problem.baseline in claim.arms
    known = set(problem.metric_directions())
    for check in claim.checks:
        if check.of == "test":
            assert check.quantity in known, check.says
    for arm, numbers in claim.paper_numbers.items():
        assert arm in claim.rows
        assert set(numbers) <= known | {SIGMA + pair for pair in pair_names(problem.loss_names)}


def test_every_recipe_but_those_with_none_has_a_claim():
    from manyloss.lab.recipes import all_recipes

    claimed = {claim.recipe for claim in claims.all_claims().values()}
    assert set(all_recipes()) == claimed


def test_committed_results_were_made_under_the_present_rules():
    for path in sorted(RESULTS.glob("**/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "claim" in record:
            assert record["rule"] == claims.claim_named(record["claim"]).rule, path


@pytest.mark.parametrize("packed", sorted(path.name for path in RESULTS.glob(f"*{SUFFIX}")))
def test_a_committed_verdict_is_what_its_committed_trials_say(packed, tmp_path, monkeypatch):
    name = packed.removesuffix(SUFFIX)
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    # Whose data they were is a question to data sets that this machine may not have.
    monkeypatch.setattr(judging, "has_papers_data", lambda _: record["papers_setting"])
    readings = record.get("readings")
    tried = {"readings": len(readings["judged"]), "reading_seeds": readings["seeds"]} if readings else {}
    unpack(RESULTS / packed, tmp_path / name)
    before = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
    lab.reproduce(record["claim"], scale=record["scale"], seeds=record["seeds"], out=tmp_path / name, **tried)
    assert json.loads((tmp_path / name / "claim.json").read_text(encoding="utf-8")) == record
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing was trained


def test_a_row_is_put_together_from_arms_with_a_metric_each(tmp_path):
    class Mean(Problem):
        def derive(self, values):
            return {"mean": (values["left"] + values["right"]) / 2}

    rule = RULE.split(b"[[checks]]")[0].replace(b'["a", "b"]', b'["a", "b", "both"]') + (
        b'[combined]\n"single task" = ["a", "b"]\n\n[[checks]]\nsays = "together they do better"\n'
        b'arm = "both"\nthan = "single task"\nis = "higher"\nquantity = "mean"\n'
    )
    made = claims.read_rule("made.toml", rule)
    write_run(tmp_path, made, {"a": [0.5, 0.5], "b": [0.5, 0.5], "both": [0.5, 0.5]})
    for arm, test in (("a", {"left": 0.2}), ("b", {"right": 0.4}), ("both", {"mean": 0.5})):
        for seed in range(2):
            path = storage.trial_folder(tmp_path, arm, seed) / "result.json"
            storage.write_json(path, json.loads(path.read_text()) | {"test": test})
    verdict = claims.judge(made, tmp_path, Mean(), scale="small", seeds=[0, 1])
    (finding,) = verdict.findings
    assert finding.outcome == "holds"
    assert finding.against == pytest.approx(0.3)
    assert verdict.measured["single task"] == pytest.approx({"left": 0.2, "right": 0.4, "mean": 0.3})


def test_the_tests_that_the_theory_names_are_there():
    root = RESULTS.parent
    section = (root / "docs" / "claims.md").read_text().split("## graddrop-theory")[1].split("<!--")[0]
    named = set(re.findall(r"`(test_\w+)`", section))
    there = (root / "tests" / "aggregation" / "test_graddrop.py").read_text()
    assert len(named) == 6
    assert all(f"def {name}(" in there for name in named)
