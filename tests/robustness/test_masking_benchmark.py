"""The benchmark of the masking verdict: rates by hand, and its thresholds are not above those in force."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from manyloss.robustness.masking import THRESHOLDS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_of_masking", FOLDER / "masking.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their types
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_rates_thresholds_and_what_is_left_out(benchmark):
    nets = []
    for kind, (masks, strengths, _) in benchmark.KINDS.items():
        for strength in strengths:
            hidden = 0.3 if masks and strength != strengths[0] else 0.02
            signs = dict.fromkeys(THRESHOLDS, 0.004)
            signs["zero_gradients"] = 0.9 if kind.startswith("scaled") else 0.004
            if kind.startswith("plain"):
                signs["cross_entropy_minus_margin"] = 0.021
            nets.append(benchmark.Judged(kind, strength, 0, {"clean": 1.0, "hidden": hidden}, signs))
    thresholds = benchmark.calibrated(nets)
    assert thresholds["cross_entropy_minus_margin"] == 0.03
    assert thresholds["zero_gradients"] == 0.01
    rates = benchmark.rates(nets, thresholds)
    assert rates["honest nets suspected"].startswith("0 of 12 (0% to 2")
    assert rates["masking nets missed"].startswith("12 of 14 ")  # a third of 21 hides nothing
    rows = list(benchmark.summary(nets))
    of_kind = {row["kind"]: row for row in rows if "kind" in row}
    assert of_kind["scaled logits, factor"]["masks"] == "2 of 3"
    assert of_kind["scaled logits, factor"]["suspected"] == "2 of 2"
    assert of_kind["plain, epochs"]["masks"] == "no"
    held_out = [net for net in nets if net.held_out]
    assert len(held_out) == len(benchmark.KINDS)


def test_wrapped_nets_answer_as_the_one_behind_and_hide_its_gradient(benchmark):
    torch.manual_seed(0)
    base = benchmark.perceptron().eval()
    x = torch.rand(20, 1, 8, 8)
    noisy, averaged = (benchmark.Smoothed(base, 0.3, eot=eot) for eot in (False, True))
    with torch.no_grad():
        assert torch.equal(noisy(x), averaged(x))
    assert not torch.equal(noisy(x), noisy(x))
    assert torch.equal(averaged(x), averaged(x))
    grid = torch.arange(9.0).repeat(5) / 8
    assert torch.allclose(benchmark.slanted(grid * 8, 1000.0), grid * 8)


def test_what_was_calibrated_is_not_above_what_is_in_force():
    results = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    for row in results.get("masking", {"figures": ()})["figures"]:
        if "sign" in row:
            assert row["in force"] == THRESHOLDS[row["sign"]]
            assert row["calibrated"] <= row["in force"]
