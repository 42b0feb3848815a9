"""Lightning's automatic optimisation on multi.total gives the parameters of the plain loop."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from manyloss import MultiLoss
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
    micro_batches,
    new_multi,
    plain_loop,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
    precision = pytest.importorskip("lightning.pytorch.plugins.precision")

# Lightning warns about workers, loggers and torch's own future; none of it is ours.
pytestmark = [pytest.mark.filterwarnings("ignore")]


class Model(lightning.LightningModule):
    """As anyone would write it for one loss, but for the line with ``multi.total``."""

    def __init__(self, multi, scheduler=None):
        super().__init__()
        self.multi = multi
        self.tiny = Tiny()
        self.scheduler = scheduler
        self.seen = []

    def loss(self, batch):
        outputs = self.tiny(batch["inputs"])
        return self.multi.total(losses_of(outputs, batch), features=outputs["features"])

    def training_step(self, batch, index):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("validation", self.loss(batch))

    def on_train_batch_end(self, *args):
        self.seen.append(self.multi.last)

    def on_train_epoch_end(self):
        self.multi.end_epoch()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.tiny.parameters(), lr=0.1)
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }


def trainer(folder, epochs: int = 1, **keywords):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **{"enable_checkpointing": False, **keywords},
    )  # fmt: skip


def loader() -> DataLoader:
    return DataLoader(examples(), batch_size=BATCH, collate_fn=collate)


def halves(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


# Without a method, the plain loop knows nothing of manyloss.
METHODS = {"equal": (MultiLoss, lambda: None), "gradnorm": (new_multi, new_multi)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("settings", "scheduler", "micro", "clip"),
    [
        ({}, None, 1, None),
        ({}, halves, 1, None),
        ({"gradient_clip_val": 0.5}, None, 1, 0.5),
        ({"accumulate_grad_batches": 3}, None, 3, None),
        ({"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, halves, 2, 0.5),
    ],
    ids=["plain", "scheduler per step", "clipping", "accumulation", "all three"],
)
def test_training_equals_the_plain_loop(tmp_path, method, settings, scheduler, micro, clip) -> None:
    ours, loops = METHODS[method]
    model = Model(ours(), scheduler)
    run = trainer(tmp_path, **settings)
    run.fit(model, loader())
    expected = plain_loop(loops(), micro_batches(micro), clip=clip, scheduler=scheduler)
    assert_same_parameters(model.tiny, expected)
    assert len(model.seen) == STEPS
    assert set(model.seen[-1].weights) == {"near", "far"}
    if scheduler is not None:
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (STEPS // micro))


def test_the_logged_loss_is_the_plain_sum(tmp_path) -> None:
    model = Model(new_multi())
    run = trainer(tmp_path)
    run.fit(model, loader(), loader())
    losses = [sum(losses_of(model.tiny(batch["inputs"]), batch).values()).item() for batch in batches()]
    assert float(run.callback_metrics["validation"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert float(run.callback_metrics["loss"]) == pytest.approx(float(sum(model.multi.last.losses.values())))


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
    assert fresh.multi.last.weights == straight.multi.last.weights


def test_a_grad_scaler_is_used(tmp_path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    class Scaled(precision.MixedPrecision):
        def forward_context(self):
            return lightning.plugins.precision.Precision.forward_context(self)  # scaled, but not half

    plugin = Scaled("16-mixed", "cpu", scaler)
    model = Model(MultiLoss(MGDA()))
    trainer(tmp_path, plugins=[plugin]).fit(model, loader())
    assert_same_parameters(model.tiny, plain_loop(MultiLoss(MGDA()), micro_batches(1)))
    assert scaler.get_scale() == 2.0**10
