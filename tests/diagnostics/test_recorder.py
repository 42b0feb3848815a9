"""The recorder writes down what is there, when it is due, and changes nothing."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.diagnostics import ConflictRecorder, read_records
from manyloss.penalties import CosReg
from manyloss.weighting import MGDA, GradNorm, PCGrad
from tests.problems import Given, Network, Pyramid, assert_identical


def step(network: Network, multi: MultiLoss, number: int = 0, **keywords):
    network.zero_grad()
    features, losses = network.forward(number)
    given = features if len(features) > 1 else features[0]
    return multi.backward(losses, features=given, **keywords)


def test_the_figures_by_hand() -> None:
    multi = MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        Given(torch.tensor([[[3.0, 0.0]], [[-4.0, 0.0]], [[0.0, 5.0]]])).at_features(multi)
    (record,) = recorder.records
    assert record["step"] == 1
    assert record["place"] == "features"
    assert record["losses"] == {"loss_0": 1.0, "loss_1": 1.0, "loss_2": 1.0}
    assert record["norms"] == pytest.approx({"loss_0": 3.0, "loss_1": 4.0, "loss_2": 5.0})
    assert record["norm_shares"] == pytest.approx({"loss_0": 0.25, "loss_1": 4 / 12, "loss_2": 5 / 12})
    assert record["cosines"] == {"loss_0|loss_1": -1.0, "loss_0|loss_2": 0.0, "loss_1|loss_2": 0.0}
    assert record["negative_share"] == pytest.approx(1 / 3)
    length = math.sqrt(1 + 25)  # the sum is (-1, 5)
    assert record["with_sum"] == pytest.approx(
        {"loss_0": -1 / length, "loss_1": 1 / length, "loss_2": 5 / length}
    )
    assert record["purity"]["mixed"] == pytest.approx(0.5)
    assert record["purity"]["passed"] == pytest.approx((25 / 7 + 5) / 12)
    assert record["sigma"] == {}  # one value has no deviation
    assert record["layers"] == {}
    json.dumps(record)


def test_the_running_sigma_is_the_standard_deviation() -> None:
    multi = MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        for angle in (0.3, 1.1, 2.0):
            second = [[math.cos(angle), math.sin(angle)]]
            Given(torch.tensor([[[1.0, 0.0]], second], dtype=torch.float64)).at_features(multi)
    cosines = torch.tensor([math.cos(angle) for angle in (0.3, 1.1, 2.0)], dtype=torch.float64)
    assert recorder.records[-1]["sigma"] == pytest.approx({"loss_0|loss_1": float(cosines.std())})


def test_sigma_goes_on_when_a_loss_was_absent() -> None:
    network, multi = Network(3), MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        for number in range(4):
            features, losses = network.forward(number)
            if number == 1:
                losses["loss_1"] = None
            multi.backward(losses, features=features[0])
    for pair in ("loss_0|loss_1", "loss_0|loss_2"):
        values = [record["cosines"][pair] for record in recorder.records if pair in record["cosines"]]
        deviation = torch.tensor(values, dtype=torch.float64).std()
        assert recorder.records[-1]["sigma"][pair] == pytest.approx(float(deviation))


def test_every_nth_step_until_it_is_detached() -> None:
    multi, network = MultiLoss(), Network(3)
    with ConflictRecorder(multi, every=3) as recorder:
        results = [step(network, multi, number) for number in range(8)]
    assert [record["step"] for record in recorder.records] == [1, 4, 7]
    assert [result.cosines is not None for result in results] == [i % 3 == 0 for i in range(8)]
    step(network, multi)
    assert len(recorder.records) == 3
    assert multi.observers == []
    recorder.detach()  # twice is harmless


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiLoss(),
        lambda: MultiLoss(GradNorm()),
        lambda: MultiLoss(PCGrad(seed=1)),
        lambda: MultiLoss(aggregator=GradDrop(seed=1)),
        lambda: MultiLoss(penalties=[CosReg()]),
    ],
)
@pytest.mark.parametrize("layout", [Network, Pyramid])
def test_a_recorded_step_writes_what_an_unrecorded_one_does(make, layout) -> None:
    network = layout(3)
    plain, watched = make(), make()
    with ConflictRecorder(watched, every=1, layers={"encoder": network.encoder}) as recorder:
        for number in range(2):
            step(network, watched, number)
            seen = network.gradients()
            step(network, plain, number)
            for first, second in zip(seen, network.gradients(), strict=True):
                torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
    assert len(recorder.records) == 2


def test_layers_are_read_before_the_backward() -> None:
    network, multi = Network(2), MultiLoss()
    layers = {"first": network.encoder[0], "last": network.last_layer()}
    with ConflictRecorder(multi, every=1, layers=layers) as recorder:
        step(network, multi)
    _, losses = network.forward()
    for name, params in (("first", list(network.encoder[0].parameters())), ("last", network.last_layer())):
        a, b = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, retain_graph=True)])
            for loss in losses.values()
        )
        found = recorder.records[0]["layers"][name]
        assert found["cosines"]["loss_0|loss_1"] == pytest.approx(float(a @ b / a.norm() / b.norm()))
        assert found["norms"] == pytest.approx({"loss_0": float(a.norm()), "loss_1": float(b.norm())})


def test_at_shared_parameters() -> None:
    network, multi = Network(2), MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        _, losses = network.forward()
        multi.backward(losses, shared_params=network.last_layer())
    assert recorder.records[0]["place"] == "shared_params"


def test_absent_losses_and_zero_gradients_have_no_cosine() -> None:
    multi = MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        given = Given(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[-1.0, 1.0]], [[1.0, 1.0]]]))
        features = given.point * 1.0
        losses = given.losses(features)
        losses["loss_3"] = None
        multi.backward(losses, features=features)
    (record,) = recorder.records
    assert list(record["cosines"]) == ["loss_0|loss_2"]
    assert record["norms"]["loss_1"] == 0.0
    assert record["with_sum"]["loss_1"] == 0.0
    assert "loss_3" not in record["losses"]


def test_a_skipped_step_is_not_recorded_and_the_next_one_is() -> None:
    network, multi = Network(2), MultiLoss()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with ConflictRecorder(multi, every=10) as recorder:
        features, losses = network.forward()
        losses["loss_1"] = losses["loss_1"] * float("inf")
        assert multi.backward(losses, features=features[0], grad_scaler=scaler).skipped
        assert recorder.records == []
        step(network, multi, 1, grad_scaler=scaler)
        step(network, multi, 2, grad_scaler=scaler)
    assert [record["step"] for record in recorder.records] == [2]


def test_a_refused_step_is_not_recorded() -> None:
    multi = MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        network = Network(2)
        _, losses = network.forward()
        with pytest.raises(ValueError, match="reads gradients: pass features="):
            multi.backward(losses)
        step(network, multi)
    assert len(recorder.records) == 1


def test_json_lines_and_a_writer(tmp_path) -> None:
    class Kept:
        def __init__(self):
            self.scalars = {}

        def add_scalar(self, tag, scalar_value, global_step):
            self.scalars[tag, global_step] = scalar_value

    network, multi, writer, path = Network(2), MultiLoss(), Kept(), tmp_path / "sub" / "conflict.jsonl"
    layers = {"encoder": network.encoder}
    with ConflictRecorder(multi, every=2, layers=layers, path=path, writer=writer) as recorder:
        for number in range(4):
            step(network, multi, number)
    assert read_records(path) == recorder.records
    cosine = recorder.records[1]["cosines"]["loss_0|loss_1"]
    assert writer.scalars["manyloss/cosine/loss_0|loss_1", 3] == cosine
    assert {tag.split("/")[1] for tag, _ in writer.scalars} == {
        "cosine", "layers", "loss", "negative_share", "norm", "norm_share", "purity", "sigma", "weight",
        "with_sum",
    }  # fmt: skip
    assert writer.scalars["manyloss/weight/loss_1", 3] == recorder.records[1]["weights"]["loss_1"] == 1.0
    assert writer.scalars["manyloss/loss/loss_0", 1] == recorder.records[0]["losses"]["loss_0"]
    assert writer.scalars["manyloss/norm/loss_0", 1] == recorder.records[0]["norms"]["loss_0"]


def test_with_tensorboards_own_writer(tmp_path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    network, multi = Network(2), MultiLoss()
    with (
        tensorboard.SummaryWriter(str(tmp_path)) as writer,
        ConflictRecorder(multi, every=1, writer=writer),
    ):
        step(network, multi)
    assert any(path.stat().st_size > 300 for path in tmp_path.iterdir())


def test_many_losses_do_not_flood_the_writer() -> None:
    tags = set()

    class Kept:
        def add_scalar(self, tag, scalar_value, global_step):
            tags.add(tag)

    network, multi = Network(20), MultiLoss()
    with ConflictRecorder(multi, every=1, writer=Kept()) as recorder:
        step(network, multi)
        step(network, multi, 1)
    assert len(recorder.records[0]["cosines"]) == 190
    assert {"manyloss/cosine mean", "manyloss/cosine lowest"} <= tags
    assert not any("/cosine/" in tag for tag in tags)
    seen = [list(record["cosines"].values()) for record in recorder.records]
    sigma = np.std(seen, axis=0, ddof=1)
    assert recorder.records[1]["sigma"] == pytest.approx({"mean": sigma.mean(), "highest": sigma.max()})
    assert {tag for tag in tags if "sigma" in tag} == {"manyloss/sigma/mean", "manyloss/sigma/highest"}


def test_it_saves_nothing_and_leaks_nothing() -> None:
    multi = MultiLoss()
    network = Network(2)
    step(network, multi)
    before = multi.state_dict().keys()
    with ConflictRecorder(multi, every=1, layers={"encoder": network.encoder}) as recorder:
        step(network, multi)
        assert multi.state_dict().keys() == before
    assert recorder._layer_rows == {}


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="every must be at least 1; received 0"):
        ConflictRecorder(MultiLoss(), every=0)
    with pytest.raises(TypeError, match=r"every must be a whole number, got 1\.5"):
        ConflictRecorder(MultiLoss(), every=1.5)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match="layers must be a mapping from names to modules or parameters, got list"
    ):
        ConflictRecorder(MultiLoss(), layers=[nn.Linear(1, 1)])  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"step must be a function such as lambda: trainer\.global_step, got 5"
    ):
        ConflictRecorder(MultiLoss(), step=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'act' has no parameters that require grad"):
        ConflictRecorder(MultiLoss(), layers={"act": nn.ReLU()})


def test_bit_for_bit_without_layers() -> None:
    network = Network(3)
    plain, watched = MultiLoss(), MultiLoss()
    step(network, plain)
    expected = network.gradients()
    with ConflictRecorder(watched, every=2) as recorder:
        step(network, watched)
        step(network, watched)  # not recorded: the plain path
    assert_identical(network.gradients(), expected)
    assert len(recorder.records) == 1


def test_the_trainers_own_step() -> None:
    """Two micro-batches to a step, from step 100 of a resumed run on: the first of every third step."""
    network, multi = Network(2), MultiLoss()
    now = 100
    with ConflictRecorder(multi, every=3, step=lambda: now) as recorder:
        for now in (100, 100, 101, 101, 102, 102, 103, 103, 104, 104, 106):  # noqa: B007
            step(network, multi)
    assert [record["step"] for record in recorder.records] == [100, 103, 106]


def numbers_of(writer):
    network, multi = Network(2), MultiLoss(MGDA())
    with ConflictRecorder(multi, every=1, writer=writer, step=lambda: 7) as recorder:
        step(network, multi)
    return recorder.records[0]


class WandbRun:
    """What a run of W&B offers of it."""

    def __init__(self):
        self.kept = {}

    def log(self, data, step=None):
        self.kept[step] = data


class Logger:
    """What a logger of Lightning, and the module mlflow, offer of it."""

    def __init__(self):
        self.kept = {}

    def log_metrics(self, metrics, step=None):
        self.kept[step] = metrics


def test_what_trackers_are_called_with() -> None:
    run, logger, kept = WandbRun(), Logger(), {}
    record = numbers_of(run)
    numbers_of(logger)
    numbers_of(lambda numbers, at: kept.update({at: numbers}))
    assert run.kept[7]["manyloss/cosine/loss_0|loss_1"] == record["cosines"]["loss_0|loss_1"]
    assert logger.kept[7]["manyloss/cosine/loss_0 loss_1"] == record["cosines"]["loss_0|loss_1"]
    assert kept == run.kept
    with pytest.raises(TypeError, match=r"writer must be TensorBoard's .* got int"):
        ConflictRecorder(MultiLoss(), writer=3)


def test_with_lightnings_own_logger(tmp_path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(str(tmp_path))
    record = numbers_of(logger)
    logger.save()
    (file,) = tmp_path.rglob("metrics.csv")
    heads, values = (line.split(",") for line in file.read_text().splitlines())
    found = dict(zip(heads, values, strict=True))
    assert found["step"] == "7"
    assert float(found["manyloss/weight/loss_0"]) == record["weights"]["loss_0"]


def test_with_weights_and_biases_offline(tmp_path, monkeypatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(dir=str(tmp_path)) as run:
        record = numbers_of(run)
        run.log({"other": 1.0}, step=8)  # W&B completes a step when the next one begins
        assert run.summary["manyloss/weight/loss_0"] == record["weights"]["loss_0"]


def test_with_mlflow_on_disk(tmp_path, monkeypatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("tried")
    with mlflow.start_run() as run:
        record = numbers_of(mlflow)
    kept = mlflow.get_run(run.info.run_id).data.metrics
    assert kept["manyloss/cosine/loss_0 loss_1"] == pytest.approx(record["cosines"]["loss_0|loss_1"])


def test_sigma_is_that_of_the_last_records() -> None:
    """Also where a loss is absent in between, and beyond the window."""
    network, multi = Network(3), MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        for number in range(60):
            features, losses = network.forward(number)
            if number == 30:
                losses["loss_2"] = None
            multi.backward(losses, features=features)
    for upto in (1, 2, 30, 31, 32, 60):
        record = recorder.records[upto - 1]
        for pair in record["cosines"]:
            seen = [
                r["cosines"][pair] for r in recorder.records[max(upto - 50, 0) : upto] if pair in r["cosines"]
            ]
            if len(seen) == 1:
                assert pair not in record["sigma"]
            else:
                assert record["sigma"][pair] == pytest.approx(float(np.std(seen, ddof=1)), rel=1e-9)
