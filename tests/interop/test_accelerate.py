"""A few steps with a real Accelerator give the parameters of the plain loop."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.interop import FeaturesOf
from manyloss.interop.accelerate import backward
from manyloss.weighting import MGDA, Uncertainty
from tests.interop.tiny import Tiny, assert_same_parameters, batches, losses_of, new_multi, plain_loop

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def train(accelerator, multi, given, model=None):
    model = Tiny() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for batch in given:
        with accelerator.accumulate(prepared):
            outputs = prepared(batch["inputs"])
            backward(accelerator, multi, losses_of(outputs, batch), features=outputs["features"])
            optimizer.step()
            optimizer.zero_grad()
    return model


def test_training_equals_the_plain_loop() -> None:
    model = train(accelerate.Accelerator(cpu=True), new_multi(), batches())
    assert_same_parameters(model, plain_loop(new_multi(), [[b] for b in batches()]))


@pytest.mark.parametrize("method", [MGDA, Uncertainty])
def test_micro_batches_are_averaged_where_gradients_are_written(method) -> None:
    """Uncertainty would learn otherwise if the losses themselves were divided."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = train(accelerator, MultiLoss(method()), batches())
    pairs = [batches()[i : i + 2] for i in range(0, len(batches()), 2)]
    assert_same_parameters(model, plain_loop(MultiLoss(method()), pairs))


def test_without_a_scaler_a_loss_that_is_not_finite_is_an_error() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, batch = Tiny(), batches()[0]
    outputs = model(batch["inputs"])
    losses = losses_of(outputs, batch)
    losses["far"] = losses["far"] * float("inf")
    with pytest.raises(ValueError, match="Loss 'far' is inf"):
        backward(accelerator, new_multi(), losses, features=outputs["features"])


def test_under_mixed_precision_features_come_from_the_encoder() -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model, batch = Tiny(), batches()[0]
    encoded = FeaturesOf(model.encoder)
    prepared = accelerator.prepare(model)
    outputs = prepared(batch["inputs"])
    with pytest.raises(ValueError, match="reaches none of the features"):
        backward(accelerator, new_multi(), losses_of(outputs, batch), features=outputs["features"])
    encoded.take()
    outputs = prepared(batch["inputs"])
    backward(accelerator, new_multi(), losses_of(outputs, batch), features=encoded.take())
    assert all(param.grad is not None for param in model.parameters())
    encoded.close()
    prepared(batch["inputs"])
    with pytest.raises(RuntimeError, match=r"FeaturesOf\(Sequential\) saw no forward"):
        encoded.take()


def test_the_state_travels_with_save_state(tmp_path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    multi, model = new_multi(), Tiny()
    accelerator.register_for_checkpointing(multi)
    train(accelerator, multi, batches(), model)
    accelerator.save_state(tmp_path)
    weights = dict(multi.backward(losses_of(out := model(batches()[0]["inputs"]), batches()[0]),
                                  features=out["features"]).weights)  # fmt: skip
    accelerator.load_state(tmp_path)
    again = dict(multi.backward(losses_of(out := model(batches()[0]["inputs"]), batches()[0]),
                                features=out["features"]).weights)  # fmt: skip
    assert weights == again


def test_what_runs_its_own_backward_is_refused() -> None:
    class Stub:
        distributed_type = accelerate.DistributedType.DEEPSPEED

    with pytest.raises(NotImplementedError, match="DEEPSPEED runs the backward itself"):
        backward(Stub(), new_multi(), {})
