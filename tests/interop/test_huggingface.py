"""A few steps of a real transformers.Trainer give the parameters of the plain loop."""

import warnings

import pytest
import torch

from manyloss import MultiLoss
from manyloss.interop import FeaturesOf
from manyloss.weighting import MGDA
from tests.interop.tiny import (
    BATCH,
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
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    from manyloss.interop.huggingface import MultiLossTrainer

pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def arguments(folder, **keywords):
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": BATCH, "num_train_epochs": 1,
        "learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0,
        "report_to": "none", "use_cpu": True, "save_strategy": "no", "remove_unused_columns": False,
        "disable_tqdm": True, "train_sampling_strategy": "sequential", "label_names": ["near", "far"],
        "logging_strategy": "no",
    }  # fmt: skip
    return transformers.TrainingArguments(**{**settings, **keywords})


def trainer(folder, multi, model=None, features=lambda outputs: outputs["features"], **keywords):
    return MultiLossTrainer(
        model=Tiny() if model is None else model,
        args=arguments(folder, **keywords),
        train_dataset=examples(),
        eval_dataset=examples(),
        data_collator=collate,
        multi=multi,
        compute_losses=lambda outputs, inputs: (losses_of(outputs, inputs), features(outputs)),
    )


def test_training_equals_the_plain_loop(tmp_path) -> None:
    run = trainer(tmp_path, new_multi())
    run.train()
    assert_same_parameters(run.model, plain_loop(new_multi(), micro_batches(1)))
    assert set(run.last_result.losses) == {"near", "far"}


def test_every_loss_and_weight_is_logged_beside_the_sum(tmp_path) -> None:
    run = trainer(tmp_path, new_multi(), logging_strategy="steps", logging_steps=2)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    last = run.last_result
    assert logged[-1]["loss/near"] == float(last.losses["near"])
    assert logged[-1]["weight/far"] == float(last.weights["far"])


def by_steps(optimizer):
    """The linear schedule of the Trainer, over three steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 3)


@pytest.mark.parametrize("ours", [MultiLoss, lambda: MultiLoss(MGDA()), new_multi])
@pytest.mark.parametrize(
    ("clip", "scheduler"), [(None, None), (0.5, None), (None, by_steps), (0.5, by_steps)]
)
def test_its_own_accumulation_clipping_and_schedule(tmp_path, ours, clip, scheduler) -> None:
    """Two micro-batches to a step; the plain sum is compared with a loop that knows nothing of manyloss."""
    run = trainer(
        tmp_path,
        ours(),
        gradient_accumulation_steps=2,
        max_grad_norm=clip or 0.0,
        lr_scheduler_type="constant" if scheduler is None else "linear",
    )
    run.train()
    multi = None if ours is MultiLoss else ours()
    assert_same_parameters(run.model, plain_loop(multi, micro_batches(2), clip=clip, scheduler=scheduler))


def test_bfloat16_is_its_own(tmp_path) -> None:
    model = Tiny()
    encoded = FeaturesOf(model.encoder)
    run = trainer(tmp_path, new_multi(), model, lambda *_: encoded.take(), bf16=True)
    run.train()
    for name, parameter in plain_loop(new_multi(), micro_batches(1)).named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=0.1, atol=0.05)


def test_without_a_scaler_what_is_not_finite_is_an_error(tmp_path) -> None:
    run = trainer(tmp_path, new_multi(), gradient_accumulation_steps=2)
    run.model.near.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="Loss 'near' is nan"):
        run.train()


class Inside(torch.nn.Module):
    """A model that computes its losses in its forward, as those of the library do, for a plain Trainer."""

    def __init__(self, multi):
        super().__init__()
        self.tiny, self.multi = Tiny(), multi

    def forward(self, inputs, near, far):
        outputs = self.tiny(inputs)
        losses = losses_of(outputs, {"near": near, "far": far})
        return {"loss": self.multi.total(losses, features=outputs["features"]), "near": outputs["near"]}


def test_a_plain_trainer_with_losses_inside_the_forward(tmp_path) -> None:
    """Everything but the epochs' end is there without the adapter; the state is saved with the model."""
    model = Inside(new_multi())
    run = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, gradient_accumulation_steps=2, save_strategy="steps", save_steps=3),
        train_dataset=examples(),
        data_collator=collate,
    )
    run.train()
    assert_same_parameters(model.tiny, plain_loop(new_multi(), micro_batches(2)))
    fresh = Inside(new_multi())
    run = transformers.Trainer(
        model=fresh,
        args=arguments(tmp_path, gradient_accumulation_steps=2, num_train_epochs=2),
        train_dataset=examples(),
        data_collator=collate,
    )
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_parameters(fresh.tiny, plain_loop(new_multi(), micro_batches(2, epochs=2)))


def test_evaluation_gives_the_sum_of_the_losses(tmp_path) -> None:
    run = trainer(tmp_path, new_multi(), per_device_eval_batch_size=BATCH)
    found = run.evaluate()["eval_loss"]
    losses = [sum(losses_of(Tiny()(b["inputs"]), b).values()).item() for b in batches()]
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_resumed_run_ends_where_a_straight_one_does(tmp_path) -> None:
    trainer(tmp_path, new_multi(), save_strategy="steps", save_steps=3, max_steps=3).train()
    resumed = trainer(tmp_path, new_multi(), max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_parameters(resumed.model, plain_loop(new_multi(), micro_batches(1)))
    (tmp_path / "checkpoint-3" / "manyloss.pt").unlink()
    with pytest.raises(FileNotFoundError, match="was not written by MultiLossTrainer"):
        trainer(tmp_path, new_multi()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_real_transformer_with_features_from_inside(tmp_path) -> None:
    """BERT, two classifiers, features = the last hidden state of the encoder inside."""
    from torch import nn
    from torch.nn import functional as F

    class TwoClassifiers(nn.Module):
        def __init__(self):
            super().__init__()
            config = transformers.BertConfig(
                vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )  # fmt: skip
            self.bert = transformers.BertModel(config)
            self.first, self.second = nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, input_ids, first=None, second=None):
            hidden = self.bert(input_ids=input_ids).last_hidden_state[:, 0]
            return {"first": self.first(hidden), "second": self.second(hidden)}

    generator = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(20, (5,), generator=generator), "first": torch.tensor(i % 2),
         "second": torch.tensor(i % 3)} for i in range(8)
    ]  # fmt: skip
    model = TwoClassifiers()
    encoded = FeaturesOf(model.bert, select="last_hidden_state")
    run = MultiLossTrainer(
        model=model,
        args=arguments(tmp_path, label_names=["first", "second"], max_steps=2),
        train_dataset=rows,
        data_collator=collate,
        multi=MultiLoss(MGDA()),
        compute_losses=lambda outputs, inputs: (
            {name: F.cross_entropy(outputs[name], inputs[name]) for name in ("first", "second")},
            encoded.take(),
        ),
    )
    run.train()
    assert run.last_result.path == "per_loss"  # both heads start from the same slice of the features
    assert sum(float(weight) for weight in run.last_result.weights.values()) == pytest.approx(1.0)


def test_a_lomo_optimiser_is_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(NotImplementedError, match="LOMO runs the backward itself"):
        trainer(tmp_path, new_multi(), optim="lomo")
