import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss.adversarial import GradientDefense, GradientReversal, Notice, PlainTraining, networks
from manyloss.errors import NoDoubleBackwardError
from tests.adversarial.nets import batch, convolutional, defense_pair, images, same, smooth, snapshot
from tests.reference import great


def frozen(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def by_hand(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


@pytest.mark.parametrize("mask", ["true_class", "none", "detached"])
@pytest.mark.parametrize("greace", ["literal", "reweighted"])
def test_matches_the_paper_example_by_example(mask, greace):
    model, auxiliary = smooth(), smooth()
    x, y = batch()
    method = GradientDefense(
        model, auxiliary, alpha_max=0.7, beta_max=3.0, mask=mask, greace=greace, optimizer=by_hand
    )
    method.set_progress(0.6)
    alpha, beta = great.ramp(0.7, 6, 10), great.ramp(3.0, 6, 10)
    of_model, of_auxiliary, loss = great.defense_gradients(model, auxiliary, x, y, alpha, beta, mask, greace)
    before = [parameter.detach().clone() for parameter in auxiliary.parameters()]
    result = method.backward(x, y)
    for parameter, expected in zip(model.parameters(), of_model, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    rate = (1 - 0.6) ** 0.9
    for old, new, gradient in zip(before, auxiliary.parameters(), of_auxiliary, strict=True):
        torch.testing.assert_close(new.detach(), old - rate * gradient)
    torch.testing.assert_close(result.auxiliary_loss, loss)


def test_masks_differ():
    x, y = batch()
    model, auxiliary = smooth(), smooth()
    found = {}
    for mask in ("true_class", "none", "detached"):
        model.zero_grad()
        method = GradientDefense(model, auxiliary, beta_max=0.0, mask=mask, optimizer=frozen)
        method.set_progress(0.9)
        method.backward(x, y)
        found[mask] = model[1].weight.grad.clone()
    assert not torch.allclose(found["true_class"], found["none"])
    assert not torch.allclose(found["true_class"], found["detached"])


def test_is_gradient_reversal_in_one_graph():
    model, auxiliary = defense_pair()
    x, y = images(16)
    twin, twin_auxiliary = copy.deepcopy(model), copy.deepcopy(auxiliary)
    method = GradientDefense(model, auxiliary, beta_max=0.0, optimizer=frozen)
    method.set_progress(0.5)
    method.backward(x, y)

    inputs = x.clone().requires_grad_()
    logits = twin(inputs)
    at_logits = (logits.softmax(1) - 1) * F.one_hot(y, 4)
    (g,) = torch.autograd.grad(logits, inputs, at_logits, create_graph=True)
    loss = F.cross_entropy(twin_auxiliary(GradientReversal(method.alpha)(g)), y)
    (F.cross_entropy(logits, y) + loss).backward()
    for mine, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_greace_literal_is_equation_6_at_the_logits():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (5,))
    similarity = torch.softmax(torch.randn(5, 4, dtype=torch.float64), 1)
    from manyloss.adversarial.defense import greace

    (gradient,) = torch.autograd.grad(greace(logits, y, similarity, 2.0, "literal", F.cross_entropy), logits)
    expected = great.greace_gradients_at_logits(logits.detach(), y, similarity, 2.0) / 5
    torch.testing.assert_close(gradient, expected)
    assert (gradient.sum(1) > 0).all()  # which is why logits drift
    (bounded,) = torch.autograd.grad(
        greace(logits, y, similarity, 2.0, "reweighted", F.cross_entropy), logits
    )
    torch.testing.assert_close(bounded.sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_simultaneous_and_two_pass_agree_where_the_auxiliary_stands_still():
    x, y = images(8)
    model, auxiliary = defense_pair()
    gradients = []
    for simultaneous in (True, False):
        m, a = copy.deepcopy(model), copy.deepcopy(auxiliary)
        method = GradientDefense(m, a, simultaneous=simultaneous, optimizer=frozen)
        method.set_progress(0.5)
        method.backward(x, y)
        gradients.append([p.grad for p in m.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_simultaneous_and_two_pass_train_the_auxiliary_alike_but_the_model_sees_the_updated_one():
    x, y = images(8)
    model, auxiliary = defense_pair()
    learned, gradients = [], []
    for simultaneous in (True, False):
        m, a = copy.deepcopy(model), copy.deepcopy(auxiliary)
        method = GradientDefense(m, a, simultaneous=simultaneous, auxiliary_lr=0.1)
        method.set_progress(0.5)
        method.backward(x, y)
        learned.append(snapshot(a))
        gradients.append(m[0].weight.grad)
    for name, value in learned[0].items():
        assert torch.equal(value, learned[1][name]), name
    assert not torch.allclose(*gradients)


def test_ramps_follow_the_supplement_and_start_at_zero():
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary, alpha_max=1.0, beta_max=2.0)
    assert (method.alpha, method.beta) == (0.0, 0.0)
    for epoch in (1, 25, 99):
        method.set_progress(epoch / 100)
        assert math.isclose(method.alpha, great.ramp(1.0, epoch, 100))
        assert math.isclose(method.beta, great.ramp(2.0, epoch, 100))


def test_at_the_start_the_step_is_a_plain_one():
    model, auxiliary = defense_pair()
    twin = copy.deepcopy(model)
    x, y = images()
    GradientDefense(model, auxiliary).backward(x, y)
    F.cross_entropy(twin(x), y).backward()
    for mine, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad)


@pytest.mark.parametrize("simultaneous", [True, False])
def test_one_forward_of_the_model_and_one_count_in_batchnorm(simultaneous):
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary, simultaneous=simultaneous)
    method.set_progress(0.5)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        method.backward(*images())
    assert len(calls) == 3
    assert int(model[1].num_batches_tracked) == 3
    assert int(auxiliary[1].num_batches_tracked) == 3


def test_gradients_accumulate_and_the_auxiliary_keeps_none():
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary, optimizer=frozen)
    model.eval(), auxiliary.eval()
    method.set_progress(0.5)
    x, y = images()
    method.backward(x, y)
    once = [p.grad.clone() for p in model.parameters()]
    method.backward(x, y)
    for parameter, first in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * first)
    assert all(parameter.grad is None for parameter in auxiliary.parameters())
    assert x.grad is None
    assert not x.requires_grad


def test_reloaded_state_continues_bit_by_bit():
    def fresh(seed):
        torch.manual_seed(seed)
        model, auxiliary = defense_pair()
        return GradientDefense(model, auxiliary)

    def train(method, batches, optimizer):
        for x, y in batches:
            optimizer.zero_grad()
            method.backward(x, y)
            optimizer.step()

    batches = [images() for _ in range(6)]
    first, second = fresh(1), fresh(2)
    optimizer = torch.optim.Adam(first.model.parameters())
    first.set_progress(0.4)
    train(first, batches[:3], optimizer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other = torch.optim.Adam(second.model.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(first, batches[3:], optimizer)
    train(second, batches[3:], other)
    for (name, one), (_, two) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, two), name
    assert second.alpha == first.alpha > 0


def test_it_learns_and_lowers_what_the_auxiliary_knows():
    x, y = torch.rand(64, 6), torch.arange(64) % 4
    x = x * 0.3 + 0.7 * F.one_hot(y, 6)

    def trained(alpha_max):
        torch.manual_seed(3)
        model = smooth(dtype=torch.float32)
        auxiliary = networks.mlp(6, 4, hidden=(16,))
        method = GradientDefense(model, auxiliary, alpha_max=alpha_max, beta_max=0.0, auxiliary_lr=1e-2)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for step in range(150):
            method.set_progress(step / 150)
            optimizer.zero_grad()
            result = method.backward(x, y)
            optimizer.step()
        return result

    plain, defended = trained(0.0), trained(0.5)
    assert plain.accuracy == 1.0
    assert plain.auxiliary_accuracy > 0.95
    assert defended.auxiliary_loss > plain.auxiliary_loss


def test_the_result_says_what_is_watched():
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary)
    method.set_progress(0.3)
    x, y = images(16)
    first = method.backward(x, y)
    assert first.logit_drift == 0
    assert first.batchnorm_cosine is None
    assert 0 <= first.auxiliary_accuracy <= 1
    with torch.no_grad():
        model[4].bias += 100.0
    tracked = int(model[1].num_batches_tracked)
    result = method.backward(x, y, batchnorm_cosine=True)
    assert result.logit_drift > 90
    assert any("The logits drift" in words for words in result.warnings)
    assert -1 <= result.batchnorm_cosine <= 1
    assert int(model[1].num_batches_tracked) == tracked + 1
    assert model.training


def test_saturation_is_said_in_words():
    model, auxiliary = smooth(dtype=torch.float32), smooth(dtype=torch.float32)
    with torch.no_grad():
        model[3].weight *= 1e5
    x, _ = batch(dtype=torch.float32)
    y = model(x).argmax(1)
    result = GradientDefense(model, auxiliary).backward(x, y)
    assert result.zero_share > 0.5
    assert any("exactly zero: the model saturates" in words for words in result.warnings)


def test_an_auxiliary_that_wins_or_never_learns_is_said_in_words():
    method = GradientDefense(*defense_pair())
    method.watch.steps = 200
    method.watch.running_accuracy = 0.999
    assert "does not follow it" in method.watch.accuracy_warnings("auxiliary", 0.1, True)[0]
    method.watch.running_accuracy = 0.1
    assert "is at chance" in method.watch.accuracy_warnings("auxiliary", 0.1, True)[0]
    assert method.watch.accuracy_warnings("auxiliary", 0.1, False) == []


def test_warnings_are_counted_by_their_kind_and_survive_a_copy():
    notice = Notice("the mean is {mean:.3g}, {share:.0%} of all", mean=1.23456, share=0.5)
    assert notice == "the mean is 1.23, 50% of all"
    assert notice.kind == "the mean is …, … of all"
    for twin in (copy.deepcopy(notice), pickle.loads(pickle.dumps(notice))):
        assert (twin, twin.kind) == (notice, notice.kind)


def test_bfloat16_autocast_stays_near_float32():
    model, auxiliary = defense_pair()
    twin = copy.deepcopy(model)
    x, y = images(32)
    for m, enabled in ((model, True), (twin, False)):
        method = GradientDefense(m, copy.deepcopy(auxiliary), optimizer=frozen)
        method.set_progress(0.5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            method.backward(x, y)
    cosine = F.cosine_similarity(model[0].weight.grad.flatten(), twin[0].weight.grad.flatten(), dim=0)
    assert cosine > 0.98


def test_a_grad_scaler_changes_nothing_but_the_scale():
    x, y = batch()
    model = smooth()
    twin = copy.deepcopy(model)
    auxiliary = smooth()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for m, given in ((model, scaler), (twin, None)):
        method = GradientDefense(m, copy.deepcopy(auxiliary))
        method.set_progress(0.5)
        method.backward(x, y, grad_scaler=given)
    for mine, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad / 1024, plain.grad)


def test_the_scaler_skips_what_is_not_finite_and_the_state_stays():
    x, y = batch(dtype=torch.float32)
    model = smooth(dtype=torch.float32)
    method = GradientDefense(model, smooth(dtype=torch.float32))
    method.set_progress(0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before, auxiliary = snapshot(model), snapshot(method.auxiliary)
    with torch.no_grad():
        model[1].weight[0, 0] = 3e38
    before["1.weight"][0, 0] = 3e38
    result = method.backward(x, y, grad_scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert result.skipped
    assert same(before, model)
    assert same(auxiliary, method.auxiliary)
    assert method.watch.steps == 0
    assert scaler.get_scale() < 3e38
    model.zero_grad()
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    for given in (None, torch.amp.GradScaler("cpu", enabled=False)):
        with pytest.raises(ValueError, match="holds NaN or infinite values; nothing was written"):
            method.backward(x, y, grad_scaler=given)
        with pytest.raises(ValueError, match="holds NaN or infinite values; nothing was written"):
            PlainTraining(model).backward(x, y, grad_scaler=given)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_second_of_two_passes_sees_the_updated_auxiliary_under_autocast_too():
    model, _ = defense_pair()
    auxiliary = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    method = GradientDefense(model, auxiliary, simultaneous=False, auxiliary_lr=0.01)
    method.set_progress(0.5)
    read, losses = method._read, []

    def listened(*arguments):
        outputs, loss = read(*arguments)
        losses.append(float(loss.detach()))
        return outputs, loss

    method._read = listened
    with torch.autocast("cpu", torch.bfloat16):
        method.backward(*images(32))
    first, second = losses
    assert second < first - 1e-3


def test_a_second_pass_that_is_not_finite_is_an_error():
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary, simultaneous=False, auxiliary_lr=1e38)
    method.set_progress(0.5)
    with pytest.raises(ValueError, match="The auxiliary's second loss or gradient holds NaN"):
        method.backward(*images())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_layout_changes_nothing():
    """A fused optimiser reads the memory of parameter and gradient side by side."""
    x, y = images(8)
    trained = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1),
                              nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))  # fmt: skip
        auxiliary = nn.Sequential(nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.2), nn.Conv2d(3, 3, 2), nn.Flatten(),
                                  nn.Linear(3, 4))  # fmt: skip
        method = GradientDefense(model.to(memory_format=layout), auxiliary)
        method.set_progress(0.5)
        for _ in range(3):
            method.backward(x.to(memory_format=layout), y)
        trained.append([parameter.detach().clone() for parameter in auxiliary.parameters()])
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_a_forgotten_set_progress_is_said_in_words():
    model, auxiliary = smooth(), smooth()
    forgotten = GradientDefense(model, auxiliary)
    x, y = batch()
    said = [forgotten.backward(x, y).warnings for _ in range(100)]
    assert not any("set_progress" in words for warnings in said[:99] for words in warnings)
    assert any("set_progress was never called: alpha and beta are still 0" in words for words in said[99])
    forgotten.set_progress(0.0)
    assert not any("set_progress" in words for words in forgotten.backward(x, y).warnings)


def test_a_frozen_batch_norm_has_no_train_mode_to_differ_from():
    model, auxiliary = defense_pair()
    model[1].eval()
    model[1].running_var.fill_(9.0)
    result = GradientDefense(model, auxiliary).backward(*images(), batchnorm_cosine=True)
    assert float(result.batchnorm_cosine) == pytest.approx(1.0)
    assert not model[1].training
    assert model.training


def bad_calls():
    x, y = images()
    return {
        "outside": (x * 2, y, r"x must lie in \[0, 1\].*received values from .* Move the normalisation"),
        "nan": (x.masked_fill(x > 0.5, torch.nan), y, "x holds NaN or infinite values"),
        "bytes": ((x * 255).byte(), y, r"x must be a floating point tensor .*Convert bytes"),
        "labels too large": (x, y + 4, "y must hold class numbers from 0 to 3, one per output"),
        "negative labels": (x, y - 4, "y must hold class numbers from 0 to 3"),
        "one-hot labels": (x, F.one_hot(y, 4), r"y must hold one class number per example, int64 \[6\]"),
        "too few labels": (x, y[:5], r"int64 \[6\]; received torch.int64 \[5\]"),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_bad_input_is_refused_and_nothing_changes(name):
    x, y, text = bad_calls()[name]
    model, auxiliary = defense_pair()
    method = GradientDefense(model, auxiliary)
    method.set_progress(0.5)
    before = snapshot(model), snapshot(auxiliary)
    with pytest.raises(ValueError, match=text):
        method.backward(x, y)
    assert same(before[0], model)
    assert same(before[1], auxiliary)
    assert all(parameter.grad is None for parameter in method.parameters())


class Ending(nn.Module):
    """A model with something after its logits."""

    def __init__(self, end):
        super().__init__()
        self.body, self.end = convolutional(), end

    def forward(self, x):
        return self.end(self.body(x))


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (lambda z: z.softmax(1), "must return logits; received probabilities.*Leave out the softmax"),
        (lambda z: z.log_softmax(1), "must return logits; received log-probabilities"),
        (lambda z: -z.log_softmax(1), "must return logits; received negative log-probabilities"),
        (
            lambda z: z[:, :, None],
            r"must return logits of shape \[6, C\] with C >= 2; received shape \[6, 4, 1\]",
        ),
        (lambda z: (z, z), r"must return logits of shape \[6, C\].*received tuple"),
        (lambda z: z.detach(), r"do not depend on the input through a graph; remove detach\(\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused_and_nothing_changes(end, text):
    model = Ending(end)
    method = GradientDefense(model, convolutional())
    before = snapshot(model)
    with pytest.raises(ValueError, match=text):
        method.backward(*images())
    assert same(before, model)
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.parametrize(
    ("auxiliary", "text"),
    [
        (
            convolutional(7),
            r"the auxiliary must return shape \[6, 4\]; received shape \[6, 7\]. Change its last",
        ),
        (nn.Linear(3, 4), r"the auxiliary cannot read gradients of shape \[6, 1, 4, 4\]"),
    ],
)
def test_a_wrong_auxiliary_is_refused_and_nothing_changes(auxiliary, text):
    model = convolutional()
    method = GradientDefense(model, auxiliary)
    before = snapshot(model), snapshot(auxiliary)
    with pytest.raises(ValueError, match=text):
        method.backward(*images())
    assert same(before[0], model)
    assert same(before[1], auxiliary)


def test_settings_are_checked():
    model, auxiliary = defense_pair()
    with pytest.raises(ValueError, match="greace must be one of 'literal', 'reweighted'; received 'soft'"):
        GradientDefense(model, auxiliary, greace="soft")
    with pytest.raises(ValueError, match="mask must be one of"):
        GradientDefense(model, auxiliary, mask="half")
    with pytest.raises(ValueError, match="alpha_max must be a finite number, 0 or more, got -1"):
        GradientDefense(model, auxiliary, alpha_max=-1)
    with pytest.raises(
        ValueError, match=r"set_progress takes epoch / epochs, a number in \[0, 1\]; received 7"
    ):
        GradientDefense(model, auxiliary).set_progress(7)


def test_compiled_models_are_refused_early_with_the_way_out():
    model, auxiliary = defense_pair()
    compiled = torch.compile(model, backend="aot_eager")
    method = GradientDefense(compiled, auxiliary)
    method.set_progress(0.5)
    before = snapshot(model), snapshot(auxiliary)
    with pytest.raises(
        NoDoubleBackwardError,
        match=r"^GradientDefense needs a double backward of the model, which Compiled.*_orig_mod",
    ):
        method.backward(*images())
    assert same(before[0], model)
    assert same(before[1], auxiliary)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_reentrant_checkpoints_and_fused_attention_are_refused():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convolutional()

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=True)

    method = GradientDefense(Checkpointed(), convolutional())
    method.set_progress(0.5)
    with pytest.raises(NoDoubleBackwardError, match=r"CheckpointFunctionBackward .*use_reentrant=False"):
        method.backward(*images())

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            k = self.key(x)
            return self.last(F.scaled_dot_product_attention(k, k, k).mean((1, 2)))

    method = GradientDefense(Attending(), convolutional())
    method.set_progress(0.5)
    with pytest.raises(NoDoubleBackwardError, match=r"ScaledDotProduct\w+ .*sdpa_kernel\(SDPBackend.MATH\)"):
        method.backward(*images())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.isfinite(method.backward(*images()).loss)


def test_a_custom_loss_is_used_for_both_the_task_and_the_gradient():
    x, y = batch()

    def smoothed(logits, labels):
        return F.cross_entropy(logits, labels, label_smoothing=0.2)

    model, auxiliary = smooth(), smooth()
    twin = copy.deepcopy(model)
    at_construction = GradientDefense(model, copy.deepcopy(auxiliary), loss=smoothed)
    at_call = GradientDefense(twin, copy.deepcopy(auxiliary))
    for method in (at_construction, at_call):
        method.set_progress(0.5)
    at_construction.backward(x, y)
    result = at_call.backward(x, y, loss=smoothed)
    torch.testing.assert_close(result.loss, smoothed(twin(x), y).detach())
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    with pytest.raises(ValueError, match="loss must return one number, the mean over the batch"):
        at_call.backward(x, y, loss=lambda z, k: F.cross_entropy(z, k, reduction="none"))
