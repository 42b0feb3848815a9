"""`manyloss reproduce`: a paper's claim from the command line."""

import json
import sys

import pytest

from manyloss import cli
from manyloss.lab import claims


def run(*words, capsys):
    sys.argv = ["manyloss", *words]
    try:
        cli.main()
        status = 0
    except SystemExit as stopped:
        status = stopped.code or 0
    written = capsys.readouterr()
    return status, " ".join(written.out.split()), " ".join(written.err.split())


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def test_claims_are_listed(capsys):
    status, out, _ = run("reproduce", capsys=capsys)
    assert status == 0
    assert all(name in out for name in claims.all_claims())


def test_a_claim_is_run_judged_and_recorded(tmp_path, capsys):
    folder = tmp_path / "sines"
    words = ("reproduce", "graddrop-sines", "--scale", "smoke", "--seeds", "2", "--out", str(folder))
    status, out, _ = run(*words, "--jobs", "1", capsys=capsys)
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

    status, out, _ = run(*words, capsys=capsys)
    assert status == 0
    assert "0 of 14 trials to run" in out


def test_a_folder_of_another_rule_is_refused(tmp_path, capsys):
    (tmp_path / "study.json").write_text(json.dumps({"format": 1, "settings": {"rule": "0" * 16}}))
    status, _, error = run(
        "reproduce", "graddrop-sines", "--scale", "smoke", "--out", str(tmp_path), capsys=capsys
    )
    assert status == 1
    assert "was made under the rule 0000000000000000" in error


def test_an_unknown_claim_is_refused(capsys):
    status, _, error = run("reproduce", "gradnorm-toy-3", capsys=capsys)
    assert status == 1
    assert "There is no claim 'gradnorm-toy-3'. Did you mean 'gradnorm-toy-" in error


def test_a_claim_on_the_same_experiment_takes_its_trials(tmp_path, capsys):
    words = ("--scale", "smoke", "--seeds", "2", "--jobs", "1", "--out")
    first, second = tmp_path / "toy", tmp_path / "optimizer"
    assert run("reproduce", "gradnorm-toy-10", *words, str(first), capsys=capsys)[0] == 0
    status, out, _ = run("reproduce", "gradnorm-optimizer", *words, str(second), capsys=capsys)
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
