"""Whatever torch is set to around the call, attacks and reports are the same."""

import pytest
import torch
from torch import nn

from manyloss.robustness import (
    evaluate,
    fgsm,
    least_likely_targets,
    loss_landscape,
    pgd,
    random_noise,
    random_targets,
    saliency_maps,
)
from tests.adversarial.test_ambient import AMBIENT

CALLS = {
    "fgsm": lambda model, x, y: fgsm(model, x, y, 0.1),
    "pgd": lambda model, x, y: pgd(model, x, y, 0.1, steps=3, restarts=2, loss="margin"),
    "targeted": lambda model, x, y: fgsm(model, x, y, 0.1, targets=random_targets(y, 10)),
    "noise": lambda model, x, y: random_noise(model, x, y, 0.1),
    "least likely": least_likely_targets,
    "saliency": saliency_maps,
    "landscape": lambda model, x, y: loss_landscape(model, x, y, 0.1, points=3)[1],
    "evaluate": lambda model, x, y: evaluate(model, x, y, eps=0.1, batch_size=5).as_dict(),
}
READING = [name for name in CALLS if name not in ("noise", "least likely")]


@pytest.fixture
def batch(held_out):
    return held_out[0][:12], held_out[1][:12]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", CALLS)
def test_nothing_depends_on_what_torch_is_set_to(name, ambient, four_nets, batch):
    model = four_nets["undefended"]
    expected = CALLS[name](model, *batch)
    with AMBIENT[ambient]():
        found = CALLS[name](model, *batch)
    assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected


@pytest.mark.parametrize("name", READING)
def test_inference_mode_is_refused_with_the_reason(name, four_nets, batch):
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.inference_mode\(\).*leave it"):
        CALLS[name](four_nets["undefended"], *batch)


@pytest.mark.parametrize("name", CALLS)
def test_images_from_inference_mode_are_welcome(name, four_nets, batch):
    model = four_nets["undefended"]
    with torch.inference_mode():
        x, y = (tensor.clone() for tensor in batch)
    expected, found = CALLS[name](model, *batch), CALLS[name](model, x, y)
    assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_under_autocast_losses_are_formed_in_full_precision(loss, batch):
    """In bfloat16 a margin of large logits is rounded away, and its gradient with it."""
    seen = []

    def spy(logits, classes):
        seen.append(logits.dtype)
        return nn.functional.cross_entropy(logits, classes, reduction="none")

    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.autocast("cpu", torch.bfloat16):
        fgsm(model, x, y, 0.1, loss=spy)
        images = fgsm(model, x, y, 0.1, loss=loss)
    assert seen == [torch.float32]
    assert images.dtype == torch.float32
    assert not torch.equal(images, x)
