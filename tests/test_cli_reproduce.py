"""`manyloss reproduce`: a paper's claim from the command line."""

import json

from manyloss.lab import claims


def test_claims_are_listed(manyloss):
    status, out, _ = manyloss("reproduce")
    assert status == 0
    assert all(name in out for name in claims.all_claims())


def test_a_claim_is_run_judged_and_recorded(tmp_path, manyloss):
    folder = tmp_path / "sines"
    words = ("reproduce", "graddrop-sines", "--scale", "smoke", "--seeds", "2", "--out", str(folder))
    status, out, _ = manyloss(*words, "--jobs", "1")
    assert status == 0
    claim = claims.claim_named("graddrop-sines")
    assert f"rule {claim.rule}" in out
    assert "Verdict: on substitute: " in out or "Verdict: partly" in out
    record = json.loads((folder / "claim.json").read_text())
    assert record["claim"] == "graddrop-sines"
    assert record["rule"] == claim.rule
    assert record["scale"] == "smoke"
    assert len(record["checks"]) == 6
    assert set(record["measured"]) == set(claim.arms)
    assert json.loads((folder / "study.json").read_text())["settings"]["rule"] == claim.rule

    status, out, _ = manyloss(*words)
    assert status == 0
    assert "0 of 14 trials to run" in out


def test_a_folder_of_another_rule_is_refused(tmp_path, manyloss):
    (tmp_path / "study.json").write_text(json.dumps({"format": 1, "settings": {"rule": "0" * 16}}))
    status, _, error = manyloss("reproduce", "graddrop-sines", "--scale", "smoke", "--out", str(tmp_path))
    assert status == 1
    assert "was made under the rule 0000000000000000" in error


def test_an_unknown_claim_is_refused(manyloss):
    status, _, error = manyloss("reproduce", "gradnorm-toy-3")
    assert status == 1
    assert "There is no claim 'gradnorm-toy-3'. Did you mean 'gradnorm-toy-" in error


def test_a_claim_on_the_same_experiment_takes_its_trials(tmp_path, manyloss):
    words = ("--scale", "smoke", "--seeds", "2", "--jobs", "1", "--out")
    first, second = tmp_path / "toy", tmp_path / "optimizer"
    assert manyloss("reproduce", "gradnorm-toy-10", *words, str(first))[0] == 0
    status, out, _ = manyloss("reproduce", "gradnorm-optimizer", *words, str(second))
    assert status == 0
    rows = {"equal", "gradnorm"}
    assert "4 finished trials of the same settings are copied from" in out
    for arm in rows:
        result = f"trials/{arm}/seed-1/result.json"
        assert (first / result).read_bytes() == (second / result).read_bytes()
    record = json.loads((second / "claim.json").read_text())
    assert record["settings"]["taken over"] == {"toy": 4}
    assert record["settings"]["rules"] == {
        name: claims.claim_named(name).rule for name in ("gradnorm-optimizer", "gradnorm-toy-10")
    }

    # A folder that was begun before this claim had its rule gives nothing.
    study = json.loads((first / "study.json").read_text())
    study["settings"]["rules"]["gradnorm-optimizer"] = "0" * 16
    (first / "study.json").write_text(json.dumps(study))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.json").write_text("{")
    claim = claims.claim_named("gradnorm-optimizer")
    assert claims.folders_of_other_claims(claim, tmp_path / "third") == []
    # Nor does a folder of the same claim: another folder was asked for.
    study["settings"]["rules"]["gradnorm-optimizer"] = claim.rule
    (first / "study.json").write_text(json.dumps(study))
    assert claims.folders_of_other_claims(claim, tmp_path / "third") == [first]
