import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss.adversarial import GradientDistillation, PlainTraining, SobolevTraining, SoftTargets, networks
from manyloss.errors import NoDoubleBackwardError
from tests.adversarial.nets import batch, convolutional, images, same, smooth, snapshot
from tests.reference import great


def by_hand(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def discriminator():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).double()


@pytest.mark.parametrize("adversarial", ["minimax", "non_saturating"])
def test_matches_the_paper_example_by_example(adversarial):
    student, teacher, judge = smooth(), smooth(), discriminator()
    x, y = batch(8)
    of_student, of_judge, objective = great.distillation_gradients(
        student, teacher, copy.deepcopy(judge), x, y, 0.3, adversarial
    )
    # BatchNorm's gradient needs the very parameters the oracle used
    before = [parameter.detach().clone() for parameter in judge.parameters()]
    method = GradientDistillation(
        student, teacher, judge, alpha=0.3, adversarial=adversarial, optimizer=by_hand
    )
    method.set_progress(0.5)
    result = method.backward(x, y)
    for parameter, expected in zip(student.parameters(), of_student, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    for old, new, gradient in zip(before, judge.parameters(), of_judge, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.5**0.9 * gradient)
    torch.testing.assert_close(result.objective, objective)
    assert all(parameter.grad is None for parameter in [*teacher.parameters(), *judge.parameters()])


def test_the_two_adversarial_terms_differ():
    student, teacher, judge = smooth(), smooth(), discriminator()
    x, y = batch(8)
    gradients = []
    for adversarial in ("minimax", "non_saturating"):
        student.zero_grad()
        GradientDistillation(
            student, teacher, copy.deepcopy(judge), alpha=0.9, adversarial=adversarial
        ).backward(x, y)
        gradients.append(student[1].weight.grad.clone())
    assert not torch.allclose(*gradients)


def test_teacher_and_student_are_one_batch_with_the_teacher_first():
    seen = []

    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = discriminator()

        def forward(self, gradients):
            seen.append(gradients.detach())
            return self.body(gradients).squeeze(1)

    student, teacher = smooth(), smooth()
    x, y = batch(5)
    GradientDistillation(student, teacher, Recording()).backward(x, y)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][:5], great.loss_gradients(teacher, x, y).detach())
    torch.testing.assert_close(seen[0][5:], great.loss_gradients(student, x, y).detach())


def test_the_output_reading_of_equation_8b():
    student, teacher = smooth(), smooth()
    x, y = batch(5)
    method = GradientDistillation(student, teacher, discriminator(), teacher_gradient="output")
    result = method.backward(x, y)
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(teacher(inputs).softmax(1)[range(5), y].sum(), inputs)
    torch.testing.assert_close(result.teacher_rms, gradient.square().mean().sqrt())


def test_the_teacher_stays_in_eval_mode_and_unchanged():
    student, teacher, judge = convolutional(), convolutional(), networks.mlp(16)
    teacher.train()
    method = GradientDistillation(student, teacher, judge)
    before = snapshot(teacher)
    method.train()
    teacher.train()  # by accident
    method.backward(*images())
    assert same(before, teacher)
    assert not teacher.training
    assert student.training
    assert int(student[1].num_batches_tracked) == 1
    assert int(judge[2].num_batches_tracked) == 1


def test_soft_targets_formula():
    student, teacher = smooth(), smooth()
    x, y = batch()
    result = SoftTargets(student, teacher, alpha=0.99, temperature=6.0).backward(x, y)
    p = torch.softmax(teacher(x) / 6, 1)
    q = torch.softmax(student(x) / 6, 1)
    divergence = sum((p[b] * torch.log(p[b] / q[b])).sum() for b in range(len(x))) / len(x)
    objective = 0.01 * F.cross_entropy(student(x), y) + 0.99 * 36 * divergence
    torch.testing.assert_close(result.objective, objective.detach(), rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(objective, student[1].weight)
    torch.testing.assert_close(student[1].weight.grad, expected, rtol=1e-10, atol=1e-14)
    assert teacher[1].weight.grad is None


def test_sobolev_formula():
    student, teacher = smooth(), smooth()
    x, y = batch()
    result = SobolevTraining(student, teacher, weight=3.0).backward(x, y)
    g_s, g_t = great.loss_gradients(student, x, y), great.loss_gradients(teacher, x, y).detach()
    objective = F.cross_entropy(student(x), y) + 3.0 * ((g_s - g_t) ** 2).mean()
    torch.testing.assert_close(result.objective, objective.detach())
    expected = torch.autograd.grad(objective, list(student.parameters()), allow_unused=True)
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_plain_training_is_the_loss_alone():
    student = smooth()
    x, y = batch()
    PlainTraining(student).backward(x, y)
    expected = torch.autograd.grad(F.cross_entropy(student(x), y), list(student.parameters()))
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def makers():
    return {
        "great": lambda s, t: GradientDistillation(s, t, networks.mlp(16, hidden=(8,))),
        "soft targets": SoftTargets,
        "sobolev": SobolevTraining,
        "none": lambda s, _: PlainTraining(s),
    }


@pytest.mark.parametrize("name", makers())
def test_every_distiller_shares_the_interface(name):
    student, teacher = convolutional(), convolutional()
    method = makers()[name](student, teacher)
    method.set_progress(0.5)
    x, y = images()
    result = method.backward(x, y)
    assert torch.isfinite(result.loss)
    assert result.warnings == ()
    assert all(parameter.grad is not None for parameter in student.parameters())
    before = snapshot(student)
    with pytest.raises(ValueError, match="y must hold class numbers from 0 to 3"):
        method.backward(x, y + 4)
    assert same(before, student)


@pytest.mark.parametrize("name", makers())
def test_reloaded_state_continues_bit_by_bit(name):
    def fresh(seed):
        torch.manual_seed(seed)
        return makers()[name](convolutional(), convolutional())

    def train(method, batches, optimizer):
        for x, y in batches:
            optimizer.zero_grad()
            method.backward(x, y)
            optimizer.step()

    batches = [images() for _ in range(4)]
    first, second = fresh(1), fresh(2)
    first.set_progress(0.25)
    optimizer = torch.optim.SGD(first.student.parameters(), 0.1)
    train(first, batches[:2], optimizer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(first, batches[2:], optimizer)
    train(second, batches[2:], torch.optim.SGD(second.student.parameters(), 0.1))
    for (key, one), (_, two) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, two), key


def test_bad_networks_are_refused_and_nothing_changes():
    student, teacher = convolutional(), convolutional()
    x, y = images()
    before = snapshot(student)
    with pytest.raises(
        ValueError, match=r"the discriminator must return shape \[12\]; received shape \[12, 2\]"
    ):
        GradientDistillation(student, teacher, networks.mlp(16, 2)).backward(x, y)
    with pytest.raises(ValueError, match="the teacher must return logits; received probabilities"):
        GradientDistillation(student, nn.Sequential(teacher, nn.Softmax(1)), networks.mlp(16)).backward(x, y)
    with pytest.raises(ValueError, match=r"same classes; received logits \[6, 4\] and \[6, 5\]"):
        SoftTargets(student, convolutional(5)).backward(x, y)
    with pytest.raises(NoDoubleBackwardError, match=r"double backward of the student, .*uncompiled"):
        compiled = torch.compile(student, backend="aot_eager")
        GradientDistillation(compiled, teacher, networks.mlp(16)).backward(x, y)
    assert same(before, student)
    assert all(parameter.grad is None for parameter in student.parameters())
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]; received 2"):
        GradientDistillation(student, teacher, networks.mlp(16), alpha=2)
    with pytest.raises(ValueError, match="adversarial must be one of 'minimax', 'non_saturating'"):
        GradientDistillation(student, teacher, networks.mlp(16), adversarial="gan")


def test_regression_students_work_with_their_own_loss():
    student, teacher = smooth(1), smooth(1)
    x, y = torch.rand(6, 6).double(), torch.rand(6, 1).double()
    method = GradientDistillation(student, teacher, discriminator(), loss=F.mse_loss)
    assert torch.isfinite(method.backward(x, y).student_rms)
    plain = GradientDistillation(smooth(1), teacher, discriminator())
    assert torch.isfinite(plain.backward(x, y, loss=F.mse_loss).student_rms)


def test_a_grad_scaler_changes_nothing_but_the_scale():
    student, teacher, judge = smooth(), smooth(), discriminator()
    twin = copy.deepcopy(student)
    x, y = batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    GradientDistillation(student, teacher, copy.deepcopy(judge)).backward(x, y, grad_scaler=scaler)
    GradientDistillation(twin, teacher, copy.deepcopy(judge)).backward(x, y)
    for mine, plain in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad / 4096, plain.grad)


def test_gradients_come_closer_to_the_teachers():
    x, y = torch.rand(48, 6), torch.arange(48) % 4
    x = 0.4 * x + 0.6 * F.one_hot(y, 6)
    teacher = smooth(dtype=torch.float32)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()

    def distance(method):
        optimizer = torch.optim.Adam(method.student.parameters(), 1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            method.backward(x, y)
            optimizer.step()
        difference = great.loss_gradients(method.student, x, y) - great.loss_gradients(teacher, x, y)
        return float(difference.detach().norm())

    start = smooth(dtype=torch.float32)
    assert distance(SobolevTraining(copy.deepcopy(start), teacher, weight=100.0)) < 0.5 * distance(
        PlainTraining(copy.deepcopy(start))
    )
