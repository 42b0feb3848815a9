import copy
import importlib.util
import json
import re
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from manyloss.robustness import (
    Attack,
    evaluate,
    fgsm,
    ifgsm,
    least_likely_targets,
    loss_landscape,
    masking_verdict,
    pgd,
    saliency_maps,
)
from tests.robustness import nets


@pytest.mark.parametrize("name", ["undefended", "pgd-trained"])
def test_honest_nets_are_not_suspected(reports, name):
    verdict = reports[name].verdict
    assert not verdict.suspected
    assert verdict.reasons == ()
    assert len(verdict.measured) == 7
    assert "no sign of masking in 7 tests" in str(verdict)


def test_shattered_gradients_are_found_by_transfer_and_by_one_step(reports):
    verdict = reports["shattered"].verdict
    assert verdict.suspected
    assert any("transfer, without gradients of the model, leaves" in reason for reason in verdict.reasons)
    assert any("the single step of FGSM" in reason for reason in verdict.reasons)


def test_scaled_logits_are_found_by_the_margin_loss_and_by_zeros(reports):
    verdict = reports["scaled"].verdict
    assert any("with cross-entropy and" in reason for reason in verdict.reasons)
    assert any("of the input gradients are exactly zero" in reason for reason in verdict.reasons)
    assert str(verdict).startswith("masking suspected: ")


def test_rounding_is_found_by_float64_and_counted_image_by_image(four_nets, held_out):
    model, (x, y) = nets.Scaled(four_nets["undefended"], 60.0), (held_out[0][:200], held_out[1][:200])
    report = evaluate(model, x, y, eps=0.1, batch_size=64)
    exact = copy.deepcopy(model).double()
    right = model(fgsm(exact, x.double(), y, 0.1).float()).argmax(1) == y
    assert report.in_float64["FGSM"] == pytest.approx(right.double().mean().item())
    assert list(report.in_float64) == ["FGSM", "iFGSM", "PGD cross-entropy"]
    assert any("rounding hides the way" in reason for reason in report.verdict.reasons)
    assert "FGSM, gradient in float64" in str(report)
    assert report.worst_case_accuracy <= min(report.in_float64.values())
    assert report.without_gradient.double().mean().item() == report.zero_gradients
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), y, reduction="sum"), inputs)
    assert torch.equal(report.without_gradient, (gradient == 0).flatten(1).all(1))


class OwnType(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.float())


def test_a_model_without_a_copy_in_float64_is_judged_without(four_nets, held_out):
    model, data = OwnType(four_nets["undefended"]), (held_out[0][:30], held_out[1][:30])
    report = evaluate(model, data, eps=0.1, attacks=ONE_STEP)
    assert report.in_float64 == {}
    assert "own_precision_minus_float64" not in report.verdict.measured
    spared = evaluate(four_nets["undefended"], data, eps=0.1, attacks=ONE_STEP, float64=False)
    assert spared.in_float64 == {}


def test_targeted_attacks_have_two_readings(four_nets, held_out):
    model, (x, y) = four_nets["undefended"], (held_out[0][:100], held_out[1][:100])
    report = evaluate(model, x, y, eps=0.2)
    assert set(report.not_reached) == {
        f"{attack} {aim}" for attack in ("FGSM", "iFGSM") for aim in ("random target", "least likely")
    }
    targets = least_likely_targets(model, x, y)
    found = model(ifgsm(model, x, y, 0.2, targets=targets)).argmax(1)
    missed = (found != targets).double().mean().item()
    assert report.not_reached["iFGSM least likely"] == pytest.approx(missed)
    assert report.accuracy["iFGSM least likely"] == pytest.approx((found == y).double().mean().item())
    assert f"target missed {missed:.2%}" in str(report)


def test_an_evaluation_in_the_l2_ball(four_nets, held_out):
    x, y = held_out[0][:100], held_out[1][:100]
    report = evaluate(four_nets["undefended"], x, y, eps=1.5, norm="l2", sweep=(0.5,))
    assert list(report.curves["FGSM"]) == [0.0, 0.5, 8.0]
    assert report.curves["PGD margin"][8.0] < 0.05
    assert report.accuracy["PGD margin"] < report.accuracy["noise"]
    assert report.as_dict()["norm"] == "l2"
    assert "eps = 1.5 (L2)" in str(report)
    assert not report.verdict.suspected
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"eps of an L2 ball is a length in pixel units, from 0 on"):
            evaluate(four_nets["undefended"], x, y, eps=wrong, norm="l2")
    with pytest.raises(ValueError, match="norm must be one of 'linf', 'l2'; received 'L1'"):
        evaluate(four_nets["undefended"], x, y, eps=0.1, norm="L1")


def test_adversarial_training_helps_and_masking_only_seems_to(reports):
    worst = {name: report.worst_case_accuracy for name, report in reports.items()}
    assert worst["pgd-trained"] > 0.4
    assert max(worst["undefended"], worst["shattered"], worst["scaled"]) < 0.1
    assert reports["shattered"].accuracy["PGD cross-entropy"] > 0.8


def test_the_report_holds_what_it_prints(reports):
    report = reports["undefended"]
    text = str(report)
    assert "497 examples, eps = 0.2 (51/255)" in text
    assert "1 (255/255)" in text
    assert text.splitlines()[-1].startswith("Verdict: ")
    assert report.worst_case_accuracy <= min(report.accuracy.values())
    assert report.robust.shape == (497,)
    saved = json.loads(json.dumps(report.as_dict()))
    assert saved["accuracy"]["FGSM"] == report.accuracy["FGSM"]
    assert saved["masking"]["suspected"] is False
    assert saved["eps_255"] == pytest.approx(51)


ONE_STEP = (Attack("FGSM", lambda model, x, y, eps, seed: fgsm(model, x, y, eps), "one step"),)


def three_steps(model, x, y, eps, seed):
    return pgd(model, x, y, eps, steps=3, seed=seed)


RANDOM = (Attack("PGD margin", three_steps, "iterated"),)


def test_accuracies_are_those_of_the_attack(four_nets, held_out):
    model, (x, y) = four_nets["undefended"], held_out
    report = evaluate(model, x, y, eps=0.1, attacks=ONE_STEP, sweep=(0.05, 0.1), batch_size=100)
    right = model(fgsm(model, x, y, 0.1)).argmax(1) == y
    assert report.accuracy["FGSM"] == pytest.approx(right.double().mean().item())
    half = model(fgsm(model, x, y, 0.05)).argmax(1) == y
    exact = model(fgsm(copy.deepcopy(model).double(), x.double(), y, 0.1).float()).argmax(1) == y
    assert torch.equal(report.robust, right & half & exact & (model(x).argmax(1) == y))
    assert list(report.curves["FGSM"]) == [0.0, 0.05, 0.1, 1.0]
    assert report.curves["FGSM"][0.1] == report.accuracy["FGSM"]
    assert report.curves["FGSM"][0.0] == report.clean_accuracy


def test_loaders_tensors_and_pairs_agree_and_runs_are_reproducible(four_nets, held_out):
    model, (x, y) = four_nets["undefended"], (held_out[0][:90], held_out[1][:90])
    generator = torch.get_rng_state()
    given = [
        (x, y),
        DataLoader(TensorDataset(x, y), 40),
        [(x[:40], y[:40]), (x[40:80], y[40:80]), (x[80:], y[80:])],
    ]
    found = [
        evaluate(model, data, eps=0.1, attacks=RANDOM, batch_size=40, seed=5).as_dict() for data in given
    ]
    assert found[0] == found[1] == found[2]
    assert torch.equal(generator, torch.get_rng_state())
    other = evaluate(model, given[0], eps=0.1, attacks=RANDOM, batch_size=40, seed=6)
    assert other.curves != found[0]["curves"]


def test_modes_gradients_and_buffers_are_put_back(held_out):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, (held_out[0][:32], held_out[1][:32]), eps=0.1)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_progress_true_draws_a_bar(four_nets, held_out, capsys, monkeypatch):
    x, y = held_out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    silent = evaluate(four_nets["undefended"], x[:40], y[:40], eps=0.1, batch_size=20, progress=None)
    assert capsys.readouterr().out == ""
    shown = evaluate(four_nets["undefended"], x[:40], y[:40], eps=0.1, batch_size=20, progress=True)
    assert "40/40" in capsys.readouterr().out
    assert shown.accuracy == silent.accuracy


def test_progress_counts_examples(four_nets, held_out):
    calls = []
    evaluate(
        four_nets["undefended"], (held_out[0][:90], held_out[1][:90]), eps=0.1, attacks=ONE_STEP,
        batch_size=40,
        progress=lambda done, total, name: calls.append((done, total, name)),
    )  # fmt: skip
    assert [done for done, _, name in calls if name == "end"] == [40, 80, 90]
    assert {total for _, total, _ in calls} == {90}


class Noisy(nn.Module):
    def __init__(self, model, noise=0.5):
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x):
        return self.model(x + self.noise * torch.randn_like(x))


def test_random_models_are_refused_unless_repeated(four_nets, held_out):
    model, data = Noisy(four_nets["undefended"], 0.05), (held_out[0][:50], held_out[1][:50])
    with pytest.raises(
        ValueError, match=r"The model draws random numbers at inference.*Pass repeats= \(10, say\)"
    ):
        evaluate(model, data, eps=0.1, attacks=ONE_STEP)
    first = evaluate(model, data, eps=0.1, attacks=ONE_STEP, repeats=5)
    assert first.as_dict() == evaluate(model, data, eps=0.1, attacks=ONE_STEP, repeats=5).as_dict()
    assert first.clean_accuracy > 0.8
    with pytest.raises(ValueError, match="draws random numbers"):
        evaluate(
            Noisy(four_nets["undefended"], 1e-9), data, eps=0.1, attacks=ONE_STEP
        )  # drawn, though unseen


def test_bad_calls_are_refused(four_nets, held_out):
    model, (x, y) = four_nets["undefended"], held_out
    with pytest.raises(ValueError, match=r"eps is in \[0, 1\] pixel units; received 8"):
        evaluate(model, x, y, eps=8)
    with pytest.raises(ValueError, match=r"eps is in \[0, 1\] pixel units; received 16"):
        evaluate(model, x, y, eps=0.1, sweep=(16,))
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        evaluate(model, x * 16, y, eps=0.1)
    with pytest.raises(ValueError, match="data holds no examples"):
        evaluate(model, [], eps=0.1)
    with pytest.raises(ValueError, match=r"data must yield pairs \(x, y\) of tensors; received Tensor"):
        evaluate(model, [x], eps=0.1)
    with pytest.raises(ValueError, match="received log-probabilities"):
        evaluate(nn.Sequential(model, nn.LogSoftmax(1)), x, y, eps=0.1)
    with pytest.raises(ValueError, match=r"sweep_attacks names \['CW'\]; the attacks of this evaluation are"):
        evaluate(model, x, y, eps=0.1, sweep_attacks=("CW",))
    with pytest.raises(ValueError, match=r"Two attacks have one name: \['FGSM', 'FGSM'\]"):
        evaluate(model, x, y, eps=0.1, attacks=ONE_STEP * 2)
    with pytest.raises(ValueError, match="data holds 497 examples and labels 496: one label for each"):
        evaluate(model, x, y[1:], eps=0.1)
    assert not model.training


def test_an_attack_may_have_any_name(four_nets, held_out):
    """Also one that the evaluation uses itself."""
    named = [Attack(name, ONE_STEP[0].run, "one step") for name in ("clean", "nonzero", "end", "FGSM at 1.0")]
    report = evaluate(
        four_nets["undefended"], held_out[0][:40], held_out[1][:40], eps=0.2, attacks=[*named, *ONE_STEP]
    )
    assert len(set(report.accuracy.values())) == 1
    assert report.clean_accuracy > report.accuracy["clean"]


def test_a_radius_of_the_curves_that_is_eps_is_not_attacked_twice(four_nets, held_out):
    radii = []

    def run(model, x, y, eps, seed):
        radii.append(eps)
        return fgsm(model, x, y, eps)

    report = evaluate(
        four_nets["undefended"], held_out[0][:20], held_out[1][:20], eps=0.1, sweep=(0.05, 0.1),
        attacks=[Attack("FGSM", run, "one step")], float64=False,
    )  # fmt: skip
    assert radii == [0.1, 0.05, 1.0]
    assert report.curves["FGSM"][0.1] == report.accuracy["FGSM"]


def verdict(**changes):
    honest = {
        "one_step": {"FGSM": 0.5}, "iterated": {"PGD": 0.4}, "white_box": {"FGSM": 0.5, "PGD": 0.4},
        "black_box": {"noise": 0.8}, "cross_entropy": 0.4, "margin": 0.4, "at_eps_one": 0.0,
        "zero_gradients": 0.0, "in_float64": {"FGSM": 0.5},
        "half_step": {"FGSM": 0.5},
    }  # fmt: skip
    return masking_verdict(**{**honest, **changes})


@pytest.mark.parametrize(
    ("at", "over", "words"),
    [
        (
            {"iterated": {"PGD": 0.51}},
            {"iterated": {"PGD": 0.511}},
            "PGD leaves 51.1%, the single step of FGSM 50.0%",
        ),
        (
            {"at_eps_one": 0.05},
            {"at_eps_one": 0.051},
            "accuracy is 5.1% at eps = 1, where every image is allowed",
        ),
        (
            {"black_box": {"noise": 0.39}},
            {"black_box": {"noise": 0.389}},
            "noise, without gradients of the model",
        ),
        (
            {"margin": 0.37},
            {"margin": 0.369},
            "PGD leaves 40.0% with cross-entropy and 36.9% with the margin loss",
        ),
        ({"margin": 0.43}, {"margin": 0.431}, "40.0% with cross-entropy and 43.1% with the margin loss"),
        (
            {"half_step": {"FGSM": 0.40}},
            {"half_step": {"FGSM": 0.399}},
            "FGSM leaves 50.0%, at half its step 39.9%: a longer step finds less",
        ),
        (
            {"in_float64": {"FGSM": 0.40}},
            {"in_float64": {"FGSM": 0.399}},
            "FGSM leaves 50.0%, with its gradient in float64 39.9%: rounding hides the way",
        ),
        (
            {"zero_gradients": 0.10},
            {"zero_gradients": 0.101},
            "10.1% of the input gradients are exactly zero",
        ),
    ],
)
def test_every_threshold_of_the_verdict(at, over, words):
    assert not verdict().suspected
    assert not verdict(**at).suspected
    found = verdict(**over)
    assert found.suspected
    assert len(found.reasons) == 1
    assert words in found.reasons[0]
    (counted,) = verdict(**over, examples=200).reasons
    assert re.fullmatch(re.escape(found.reasons[0]) + r" \(\d+ of 200 images\)", counted)


def test_what_was_not_run_is_not_tested():
    found = verdict(black_box={}, margin=None, at_eps_one=None, half_step=None, in_float64=None)
    assert set(found.measured) == {"iterated_minus_one_step", "zero_gradients"}


def test_autoattack_missing_is_said_with_the_way_out(monkeypatch, four_nets, held_out):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"install it with `pip install manyloss\[attacks\]`"):
        evaluate(four_nets["undefended"], held_out, eps=0.1, autoattack=True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed")
def test_autoattack_is_the_strongest(four_nets, held_out):
    data = (held_out[0][:40], held_out[1][:40])
    report = evaluate(four_nets["pgd-trained"], data, eps=nets.EPS, autoattack=True)
    assert report.accuracy["AutoAttack"] <= report.accuracy["PGD cross-entropy"]
    assert list(report.accuracy)[-1] == "AutoAttack"


@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed")
def test_autoattack_takes_few_classes_and_leaves_no_gradients(held_out):
    x, y = held_out[0][:2], held_out[1][:2] % 5
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    before = torch.ones_like(model[1].weight)
    model[1].weight.grad = before
    report = evaluate(model, x, y, eps=0.3, attacks=(), autoattack=True)
    assert 0 <= report.accuracy["AutoAttack"] <= 1
    assert model[1].weight.grad is before
    assert torch.equal(before, torch.ones_like(before))
    assert model[1].bias.grad is None
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="AutoAttack needs logits of 4 classes at least; received 3"):
        evaluate(three, x, y % 3, eps=0.3, attacks=(), autoattack=True)


def test_generators_of_gpus_are_left_alone_too(four_nets, held_out, monkeypatch):
    forked = []
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.random, "fork_rng", lambda **said: forked.append(said) or fork(**said))
    evaluate(four_nets["undefended"], held_out[0][:5], held_out[1][:5], eps=0.1, attacks=ONE_STEP)
    assert forked[0] == {"devices": []}  # as many as there are


def test_landscape_holds_the_clean_loss_in_the_middle_and_rises_along_the_gradient(four_nets, held_out):
    model, (x, y) = four_nets["pgd-trained"], (held_out[0][:20], held_out[1][:20])
    offsets, losses = loss_landscape(model, x, y, 0.1, points=5)
    assert losses.shape == (20, 5, 5)
    assert offsets.tolist() == pytest.approx([-0.1, -0.05, 0.0, 0.05, 0.1])
    clean = nn.functional.cross_entropy(model(x), y, reduction="none")
    torch.testing.assert_close(losses[:, 2, 2], clean.detach())
    assert losses[:, 4, 2].mean() > losses[:, 2, 2].mean() > losses[:, 0, 2].mean()
    assert torch.equal(losses, loss_landscape(model, x, y, 0.1, points=5)[1])


def test_saliency_is_the_size_of_the_input_gradient(four_nets, held_out):
    model, (x, y) = four_nets["undefended"], (held_out[0][:3], held_out[1][:3])
    maps = saliency_maps(model, x, y)
    assert maps.shape == (3, 8, 8)
    for image, label, found in zip(x, y, maps, strict=True):
        image = image.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        (gradient,) = torch.autograd.grad(loss, image)
        torch.testing.assert_close(found, gradient.abs()[0])
    assert not torch.equal(maps, saliency_maps(model, x, y, of="logit"))
    assert saliency_maps(nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])).shape == (2, 4)
