"""A few steps of a real Lightning Trainer give the parameters of the plain loop."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from manyloss import MultiLoss
from manyloss.interop.lightning import MultiLossMixin
from manyloss.weighting import DWA, MGDA
from tests.interop.tiny import (
    BATCH,
    STEPS,
    Tiny,
    assert_same_parameters,
    batches,
    collate,
    examples,
    losses_of,
    new_multi,
    plain_loop,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
    precision = pytest.importorskip("lightning.pytorch.plugins.precision")

# Lightning warns about workers, loggers and torch's own future; none of it is ours.
pytestmark = [pytest.mark.filterwarnings("ignore")]


class Model(MultiLossMixin, lightning.LightningModule):
    def __init__(self, multi: MultiLoss):
        super().__init__()
        self.automatic_optimization = False
        self.multi = multi
        self.tiny = Tiny()
        self.seen, self.before = [], 0

    def training_step(self, batch, index):
        outputs = self.tiny(batch["inputs"])
        self.optimizers().zero_grad()
        result = self.multi_backward(losses_of(outputs, batch), features=outputs["features"])
        self.optimizers().step()
        self.seen.append(result)

    def on_before_backward(self, loss):
        self.before += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.tiny.parameters(), lr=0.1)


def trainer(folder, epochs: int = 1, **keywords):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **{"enable_checkpointing": False, **keywords},
    )  # fmt: skip


def loader() -> DataLoader:
    return DataLoader(examples(), batch_size=BATCH, collate_fn=collate)


def test_training_equals_the_plain_loop(tmp_path) -> None:
    model = Model(new_multi())
    trainer(tmp_path).fit(model, loader())
    assert_same_parameters(model.tiny, plain_loop(new_multi(), [[b] for b in batches()]))
    assert len(model.seen) == model.before == STEPS
    assert set(model.seen[-1].weights) == {"near", "far"}


def test_epochs_are_told_to_the_methods(tmp_path) -> None:
    model, expected = Model(MultiLoss(DWA())), MultiLoss(DWA())
    trainer(tmp_path, epochs=3).fit(model, loader())
    tiny = Tiny()
    optimizer = torch.optim.SGD(tiny.parameters(), lr=0.1)
    for _ in range(3):
        for batch in batches():
            optimizer.zero_grad()
            outputs = tiny(batch["inputs"])
            result = expected.backward(losses_of(outputs, batch), features=outputs["features"])
            optimizer.step()
        expected.end_epoch()
    assert_same_parameters(model.tiny, tiny)
    assert model.seen[-1].weights == result.weights
    assert float(result.weights["near"]) != 1.0


def test_the_state_travels_in_a_checkpoint(tmp_path) -> None:
    model = Model(new_multi())
    first = trainer(tmp_path, enable_checkpointing=True)
    first.fit(model, loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    fresh = Model(new_multi())
    trainer(tmp_path, epochs=2).fit(fresh, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    straight = Model(new_multi())
    trainer(tmp_path, epochs=2).fit(straight, loader())
    assert_same_parameters(fresh.tiny, straight.tiny)
    assert fresh.multi.weighting.state.weights == straight.multi.weighting.state.weights


def test_a_grad_scaler_is_used(tmp_path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    class Scaled(precision.MixedPrecision):
        def forward_context(self):
            return lightning.plugins.precision.Precision.forward_context(self)  # scaled, but not half

    plugin = Scaled("16-mixed", "cpu", scaler)
    model = Model(MultiLoss(MGDA()))
    trainer(tmp_path, plugins=[plugin]).fit(model, loader())
    assert_same_parameters(model.tiny, plain_loop(MultiLoss(MGDA()), [[b] for b in batches()]))
    assert scaler.get_scale() == 2.0**10


def test_another_backward_is_left_alone(tmp_path) -> None:
    class Plain(Model):
        def training_step(self, batch, index):
            self.optimizers().zero_grad()
            self.manual_backward(sum(losses_of(self.tiny(batch["inputs"]), batch).values()))
            self.optimizers().step()

    model = Plain(new_multi())
    trainer(tmp_path).fit(model, loader())
    assert_same_parameters(model.tiny, plain_loop(MultiLoss(), [[b] for b in batches()]))
