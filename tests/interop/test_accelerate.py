"""accelerator.backward on multi.total gives the parameters of the plain loop."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.interop import FeaturesOf
from manyloss.weighting import MGDA, Uncertainty
from tests.interop.tiny import (
    Tiny,
    assert_same_parameters,
    batches,
    losses_of,
    micro_batches,
    new_multi,
    plain_loop,
)

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def train(accelerator, multi, model=None, clip=None, scheduler=None):
    model = Tiny() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    rates = None if scheduler is None else accelerator.prepare(scheduler(optimizer.optimizer))
    for batch in batches():
        with accelerator.accumulate(prepared):
            outputs = prepared(batch["inputs"])
            loss = multi.total(losses_of(outputs, batch), features=outputs["features"])
            accelerator.backward(loss)
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(prepared.parameters(), clip)
            optimizer.step()
            if rates is not None:
                rates.step()
            optimizer.zero_grad()
    return model


def halves(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("scheduler", [None, halves])
@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize(
    ("ours", "loops"),
    [
        (MultiLoss, lambda: None),
        (new_multi, new_multi),
        (lambda: MultiLoss(MGDA()), lambda: MultiLoss(MGDA())),
        (lambda: MultiLoss(Uncertainty()), lambda: MultiLoss(Uncertainty())),
    ],
)
def test_training_equals_the_plain_loop(ours, loops, micro, scheduler, clip) -> None:
    """Methods see the losses as they are: Uncertainty would learn otherwise if they were divided."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=micro)
    model = train(accelerator, ours(), clip=clip, scheduler=scheduler)
    expected = plain_loop(loops(), micro_batches(micro), clip=clip, scheduler=scheduler)
    assert_same_parameters(model, expected)


def test_without_a_scaler_a_loss_that_is_not_finite_is_an_error() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, batch = Tiny(), batches()[0]
    outputs = model(batch["inputs"])
    losses = losses_of(outputs, batch)
    losses["far"] = losses["far"] * float("inf")
    with pytest.raises(ValueError, match="Loss 'far' is inf"):
        accelerator.backward(new_multi().total(losses, features=outputs["features"]))


def test_under_mixed_precision_features_come_from_the_encoder() -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model, batch = Tiny(), batches()[0]
    encoded = FeaturesOf(model.encoder)
    prepared = accelerator.prepare(model)
    outputs = prepared(batch["inputs"])
    with pytest.raises(ValueError, match="reaches none of the features"):
        accelerator.backward(new_multi().total(losses_of(outputs, batch), features=outputs["features"]))
    encoded.take()
    outputs = prepared(batch["inputs"])
    accelerator.backward(new_multi().total(losses_of(outputs, batch), features=encoded.take()))
    assert all(param.grad is not None for param in model.parameters())


def test_losses_computed_inside_the_forward() -> None:
    """A model that returns its main and its auxiliary loss apart, and its total, as some models do."""

    class Inside(torch.nn.Module):
        def __init__(self, multi):
            super().__init__()
            self.tiny, self.multi = Tiny(), multi

        def forward(self, batch):
            outputs = self.tiny(batch["inputs"])
            losses = losses_of(outputs, batch)
            return {"loss": self.multi.total(losses, features=outputs["features"]), "losses": losses}

    accelerator = accelerate.Accelerator(cpu=True)
    model = Inside(new_multi())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for batch in batches():
        accelerator.backward(prepared(batch)["loss"])
        optimizer.step()
        optimizer.zero_grad()
    assert_same_parameters(model.tiny, plain_loop(new_multi(), micro_batches(1)))


def test_the_state_travels_with_save_state(tmp_path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    multi, model = new_multi(), Tiny()
    accelerator.register_for_checkpointing(multi)
    train(accelerator, multi, model)
    accelerator.save_state(tmp_path)
    weights = dict(multi.backward(losses_of(out := model(batches()[0]["inputs"]), batches()[0]),
                                  features=out["features"]).weights)  # fmt: skip
    accelerator.load_state(tmp_path)
    again = dict(multi.backward(losses_of(out := model(batches()[0]["inputs"]), batches()[0]),
                                features=out["features"]).weights)  # fmt: skip
    assert weights == again
