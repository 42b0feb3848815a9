"""GREAT (Sinha et al. 2018), written from Algorithms 1-3: one example at a time, everything by plain
autograd.

Models here have no BatchNorm (or run in eval mode), so that examples do not depend on each other.
"""

import torch
import torch.nn.functional as F


def ramp(maximum, epoch, epochs):
    """Supplement: maximum (1 - lr), lr = (1 - e / e_max)^0.9."""
    return maximum * (1 - (1 - epoch / epochs) ** 0.9)


def masked_gradients(model, x, y, mask="true_class"):
    """Algorithm 1, line 4: for every example, the gradient of its own cross-entropy, masked at the logits."""
    rows = []
    for image, label in zip(x, y, strict=True):
        image = image.detach().clone().requires_grad_()
        logits = model(image[None])[0]
        p = torch.exp(logits) / torch.exp(logits).sum()
        total = 0
        for k in range(len(logits)):
            at_logit = p[k] - (1.0 if k == label else 0.0)
            if mask == "detached":
                at_logit = at_logit.detach()
            if mask != "none" and k != label:
                continue
            (to_image,) = torch.autograd.grad(logits[k], image, create_graph=True)
            total = total + at_logit * to_image
        rows.append(total)
    return torch.stack(rows)


def greace_gradients_at_logits(logits, y, similarity, beta):
    """Eq. 6 for every example: p - 1_y, plus beta times the auxiliary's softmax for the negative classes."""
    rows = []
    for z, label, s in zip(logits, y, similarity, strict=True):
        p = torch.exp(z) / torch.exp(z).sum()
        row = [p[k] - 1.0 if k == label else p[k] + beta * s[k] for k in range(len(z))]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def defense_gradients(model, auxiliary, x, y, alpha, beta, mask="true_class", greace="literal"):
    """Gradients of the model's and of the auxiliary's parameters, both from the state before the step."""
    parameters = list(model.parameters())
    g = masked_gradients(model, x, y, mask)
    auxiliary_logits = torch.stack([auxiliary(row[None])[0] for row in g])
    auxiliary_loss = sum(-torch.log_softmax(z, 0)[k] for z, k in zip(auxiliary_logits, y, strict=True)) / len(
        x
    )
    of_auxiliary = torch.autograd.grad(auxiliary_loss, list(auxiliary.parameters()), retain_graph=True)
    reversed_part = torch.autograd.grad(
        -alpha * auxiliary_loss, parameters, allow_unused=True, retain_graph=True
    )

    similarity = torch.softmax(auxiliary_logits.detach(), 1)
    logits = model(x)
    if greace == "literal":
        at_logits = greace_gradients_at_logits(logits.detach(), y, similarity, beta)
        task_part = torch.autograd.grad(logits, parameters, at_logits / len(x))
    else:
        loss = 0
        for z, label, s in zip(logits, y, similarity, strict=True):
            total = sum(torch.exp(z[k]) * (1 if k == label else 1 + beta * s[k]) for k in range(len(z)))
            loss = loss - torch.log(torch.exp(z[label]) / total) / len(x)
        task_part = torch.autograd.grad(loss, parameters)
    of_model = [t if r is None else t + r for t, r in zip(task_part, reversed_part, strict=True)]
    return of_model, list(of_auxiliary), auxiliary_loss.detach()


def loss_gradients(model, x, y):
    """grad_x of every example's own cross-entropy."""
    rows = []
    for image, label in zip(x, y, strict=True):
        image = image.detach().clone().requires_grad_()
        loss = -torch.log_softmax(model(image[None])[0], 0)[label]
        rows.append(torch.autograd.grad(loss, image, create_graph=True)[0])
    return torch.stack(rows)


def distillation_gradients(student, teacher, discriminator, x, y, alpha, adversarial):
    """Algorithm 2: gradients of the student's and of the discriminator's parameters.

    The discriminator may hold BatchNorm: it reads one batch, teacher first.
    """
    parameters = list(student.parameters())
    g_s, g_t = loss_gradients(student, x, y), loss_gradients(teacher, x, y).detach()
    f = torch.sigmoid(discriminator(torch.cat([g_t, g_s])).flatten())
    f_t, f_s = f[: len(x)], f[len(x) :]
    discriminator_loss = -torch.log(f_t).mean() - torch.log(1 - f_s).mean()
    of_discriminator = torch.autograd.grad(
        discriminator_loss, list(discriminator.parameters()), retain_graph=True
    )
    # lines 8, 9: only the student's own label-0 (or label-1) term is sent back
    adversarial_loss = torch.log(1 - f_s).mean() if adversarial == "minimax" else -torch.log(f_s).mean()
    task = -sum(torch.log_softmax(student(i[None])[0], 0)[k] for i, k in zip(x, y, strict=True)) / len(x)
    objective = (1 - alpha) * task + alpha * adversarial_loss
    of_student = torch.autograd.grad(objective, parameters, allow_unused=True)
    return list(of_student), list(of_discriminator), objective.detach()


class AlignmentOracle:
    """Algorithm 3, with plain Adam for the classifier and the gammas; losses are batch means."""

    def __init__(self, classifier, count, shape, lr):
        self.classifier = classifier
        self.gammas = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]
        self.adam = torch.optim.Adam([*self.gammas, *classifier.parameters()], lr=lr)

    def step(self, gradients):
        """gradients [T, B, *F] -> what the encoder gets, with the gammas of before."""
        merged = sum(gamma.detach() * g for gamma, g in zip(self.gammas, gradients, strict=True))
        examples, labels = [], []
        for i, g in enumerate(gradients):
            for row in g:
                examples.append(len(g) * self.gammas[i] * row)
                labels.append(i)
        loss = F.cross_entropy(self.classifier(torch.stack(examples)), torch.tensor(labels))
        self.adam.zero_grad()
        loss.backward()
        for gamma in self.gammas:
            gamma.grad = -gamma.grad
        self.adam.step()
        with torch.no_grad():
            for gamma in self.gammas:
                gamma.clamp_(min=1e-3)
        return merged


def fgsm(model, x, y, eps):
    """One example at a time: clip(x + eps sign grad)."""
    images = []
    for image, label in zip(x, y, strict=True):
        image = image.detach().clone().requires_grad_()
        loss = -torch.log_softmax(model(image[None])[0], 0)[label]
        (gradient,) = torch.autograd.grad(loss, image)
        images.append((image.detach() + eps * torch.sign(gradient)).clip(0, 1))
    return torch.stack(images)
