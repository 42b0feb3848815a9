"""Dense tasks on rooms: targets, losses, errors and pictures with known answers; a batch learned by heart."""

import math

import pytest
import torch
import torch.nn.functional as F

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.checks import DataError, LabError
from manyloss.lab.datasets import nyuv2, rooms
from manyloss.lab.metrics import (
    AbsoluteCosineDistance,
    CosineDistance,
    DepthError,
    HeatMapDistance,
    IoUDistance,
)
from manyloss.lab.recipes import all_recipes, recipe_named
from manyloss.lab.recipes._dense import (
    CHANNELS,
    DenseRooms,
    cosine_distance,
    cross_entropy,
    heat_map_distance,
    heat_maps,
    made_rooms,
    squared_depth,
)
from manyloss.lab.recipes.cosreg_nyuv2 import CosRegRooms, squared_normals
from manyloss.lab.recipes.cosreg_sunrgbd import ROOMS_TO_COARSE, CoarseAndFine, CoarseAndFineStreets
from manyloss.lab.recipes.gradnorm_nyuv2_kpts import KeypointRooms, KeypointRoomsByFcn
from manyloss.lab.recipes.gradnorm_nyuv2_seg import Rooms
from manyloss.lab.recipes.great_mtl_nyuv2 import AlignedRooms, HeatMapError
from manyloss.lab.training import Training
from tests.lab.datasets.test_scenes import write_labelled, write_nyuv2

PROBLEMS = (
    Rooms, KeypointRooms, KeypointRoomsByFcn, CosRegRooms, CoarseAndFine,
    lambda **o: CoarseAndFineStreets(data="rooms", **o), AlignedRooms,
)  # fmt: skip


def small(make, **options):
    return make(**{"image": 32, "width": 8, "train": 4, "test": 2, "batch_size": 4, **options})


def trained(problem, arm, epochs, seed=0):
    problem.epochs = epochs
    problem.schedule = lambda optimizer: None
    chosen = choose_arm(arm, problem)
    chosen.apply(problem)

    def context(model):
        return ArmContext(problem.active_names, seed, problem=problem, model=model)

    training = Training(problem, chosen, seed, context)
    return training, [record["train"] for record in training.epochs()]


def test_targets_are_read_in_the_middle_of_the_outputs_pixels():
    split = made_rooms(0, 5, 2, image=64, output=16)
    room = rooms.render(0, 6, 64, 64)
    assert split.inputs.shape == (2, 3, 64, 64)
    assert split.targets["depth"][1, 0, 3, 4] == room.depth[14, 18]
    assert split.targets["segmentation"][1, 3, 4] == room.classes[14, 18]
    assert split.targets["normals"][1, :, 3, 4].tolist() == room.normals[14, 18].tolist()
    images, _ = split.batch(torch.arange(2), None)
    assert -1 <= float(images.min()) < float(images.max()) <= 1


def test_the_rooms_of_a_seed_are_made_once_for_all_methods():
    first, again, other = (small(KeypointRooms).datasets(seed) for seed in (0, 0, 1))
    assert first.train is again.train
    assert first.test is again.test
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_losses_and_errors_leave_out_what_is_unknown():
    one = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(2, 3, 2, 2)
    other = torch.tensor([0.0, -2, 0])[None, :, None, None].expand(2, 3, 2, 2)
    half = torch.cat([one[:1], torch.zeros(1, 3, 2, 2)])
    assert float(cosine_distance(other, half)) == 1.0
    assert float(cosine_distance(-one, half)) == 2.0
    assert float(squared_normals(5 * other, half)) == pytest.approx(2 / 3)
    for metric, expected in ((CosineDistance(), 2.0), (AbsoluteCosineDistance(), 0.0)):
        metric.update(-3 * one, half)
        assert float(metric.compute()) == expected
    depth = torch.tensor([[[[2.0, 0.0]]]])
    guess = torch.tensor([[[[5.0, 7.0]]]])
    assert float(squared_depth(guess, depth)) == 9.0
    metric = DepthError()
    metric.update(guess, depth)
    assert float(metric.compute()) == 3.0
    logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
    assert float(cross_entropy(logits, torch.tensor([[[0, -1]]]))) == pytest.approx(math.log(2))
    iou = IoUDistance(num_classes=2, ignore_index=-1)
    iou.update(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, -1]))
    assert float(iou.compute()) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_heat_maps_and_their_error():
    places = torch.tensor([[[0.25, 0.5], [math.nan, math.nan], [0.9, 0.1]]])
    maps = heat_maps(places, 32, 64)
    expected = rooms.heat_maps(places[0].numpy(), 64, 64, sigma=2.0)  # 64 / 32
    torch.testing.assert_close(heat_maps(places, 64, 64)[0], torch.from_numpy(expected))
    assert float(heat_map_distance(maps, places)) == 0
    assert float(heat_map_distance(maps + 1, places)) == pytest.approx(3)
    averaged = KeypointRooms(keypoints="averaged").losses["keypoints"]
    assert float(averaged(maps + 1, places)) == pytest.approx(3 / 48)
    metric = HeatMapDistance()
    metric.update(maps, places)
    assert float(metric.compute()) < 0.5 / 32
    moved = HeatMapDistance()
    moved.update(torch.roll(maps, 16, dims=2), places)
    assert float(moved.compute()) == pytest.approx(0.5 / 2**0.5, abs=0.02)
    error = HeatMapError()
    error.update(maps + 0.5, places)
    assert float(error.compute()) == pytest.approx(0.5)


def test_w_is_the_last_shared_convolution():
    def shared(problem):
        model = problem.model()
        weight, *_ = problem.shared_params(model)
        return next(name for name, parameter in model.named_parameters() if parameter is weight)

    assert shared(small(Rooms)) == "encoder.up.blocks.4.3.weight"
    assert shared(small(KeypointRoomsByFcn)) == "encoder.23.body.6.weight"
    assert shared(small(CosRegRooms)) == "encoder.blocks.4.6.weight"
    assert shared(small(AlignedRooms)) == "encoder.23.body.3.weight"


def test_sizes_and_sources_that_cannot_be_are_refused():
    with pytest.raises(LabError, match=r"images of 90 pixels .* Choose --option image=80, 160 or 320"):
        Rooms(image=90, stride=4)
    with pytest.raises(DataError, match=r"gradnorm-nyuv2-kpts has no data 'nyuv2'\. Choose --data rooms"):
        KeypointRooms(data="nyuv2")
    with pytest.raises(DataError, match="Choose --data rooms or sunrgbd"):
        CoarseAndFine(data="camvid")


@pytest.mark.parametrize("make", PROBLEMS)
def test_every_network_answers_in_its_tasks_shapes_and_shows_pictures(make):
    problem = small(make, train=2)
    training, _ = trained(problem, "equal", 0)
    inputs, targets = problem.datasets(0).test.batch(torch.arange(2), None)
    _, outputs = training.model.eval()(inputs)
    assert list(outputs) == list(problem.losses)
    losses = problem.compute_losses(outputs, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    shown = training.pictures()
    assert shown.inputs.shape == (2, 32, 32, 3)
    assert list(shown.truth) == list(shown.outputs) == list(problem.losses)
    for task, truth in shown.truth.items():
        assert truth.dtype == shown.outputs[task].dtype == torch.uint8
        assert truth.shape == shown.outputs[task].shape
        assert len(truth.unique()) > 1


def test_pictures_of_the_truth_are_what_they_say():
    problem = small(Rooms, image=64)
    inputs, targets = problem.datasets(0).test.batch(torch.arange(2), None)
    perfect = {
        "depth": targets["depth"],
        "segmentation": F.one_hot(targets["segmentation"], CHANNELS["segmentation"]).permute(0, 3, 1, 2),
        "normals": 3 * targets["normals"],
    }
    shown = problem.pictures(inputs, perfect, targets)
    for task in perfect:
        assert (shown.truth[task].int() - shown.outputs[task].int()).abs().max() <= 1
    assert torch.equal(shown.inputs, problem.datasets(0).test.inputs.permute(0, 2, 3, 1))
    far = targets["depth"][:, 0] > 4
    assert shown.truth["depth"][far].max() <= 128 <= shown.truth["depth"][~far].min()


def test_nyuv2_in_the_layout_of_arrays_is_read_in_place_of_rooms(tmp_path):
    write_nyuv2(tmp_path / "train", count=20)
    write_nyuv2(tmp_path / "val", count=3)
    problem = small(Rooms, data="nyuv2", data_root=str(tmp_path), train=100, test=100)
    splits = problem.datasets(0)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 3]
    scene = nyuv2.Arrays(tmp_path, "val")[2]
    assert splits.test.targets["segmentation"].shape == (3, 32, 32)
    assert splits.test.targets["segmentation"][2, ::8, ::6][0, 0] == scene.classes[0, 0]
    assert splits.test.targets["depth"][2, 0, 31, 31] == pytest.approx(float(scene.depth[3, 5]))
    assert splits.test.inputs.dtype == torch.uint8


def test_the_official_nyuv2_is_trained_on(tmp_path):
    _, classes = write_labelled(tmp_path, train=tuple(range(1, 11)), test=(11, 12))
    problem = small(Rooms, data="nyuv2", data_root=str(tmp_path), train=100, test=100)
    splits = problem.datasets(0)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [9, 1, 2]
    assert splits.test.targets["segmentation"][1, 0, 0] == int(classes[12][0, 0]) - 1
    lengths = splits.train.targets["normals"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert problem.datasets(1).train is splits.train  # read and fitted once per process


def test_coarse_classes_follow_from_fine_ones_and_flips_move_both():
    problem = small(CoarseAndFine)
    train = problem.datasets(0).train
    names = dict(zip(rooms.CLASSES, ROOMS_TO_COARSE.tolist(), strict=True))
    assert names["floor"] == names["wall"] == 0
    assert names["bed"] == names["sofa"] == 1
    indices = torch.arange(4)
    plain, targets = train.batch(indices, None)
    for seed in range(3):
        images, moved = train.batch(indices, torch.Generator().manual_seed(seed))
        for row in range(4):
            flipped = not torch.equal(images[row], plain[row])
            for before, after in ((plain, images), *((targets[t], moved[t]) for t in targets)):
                assert torch.equal(after[row], before[row].flip(-1) if flipped else before[row])
    assert not torch.equal(train.batch(indices, torch.Generator().manual_seed(0))[0], plain)
    assert torch.equal(targets["coarse"], torch.from_numpy(ROOMS_TO_COARSE)[targets["fine"]])


@pytest.mark.parametrize(
    ("make", "arm"),
    [(Rooms, "equal"), (KeypointRoomsByFcn, "gradnorm"), (CosRegRooms, "equal"), (AlignedRooms, "great")],
)
@pytest.mark.slow
def test_one_batch_is_learned_by_heart(make, arm):
    _, records = trained(small(make, lr=1e-2), arm, 80)
    assert all(records[-1][task] < 0.5 * records[0][task] for task in records[0]), (records[0], records[-1])


def test_the_papers_rows_and_kinds_of_losses():
    for name in ("gradnorm-nyuv2-kpts", "cosreg-nyuv2", "cosreg-sunrgbd", "great-mtl-nyuv2"):
        recipe = recipe_named(name)
        problem = recipe.problem(
            **{k: v for k, v in recipe.scales["smoke"].items() if k not in ("epochs", "seeds")}
        )
        chosen = [choose_arm(arm, problem) for arm in recipe.arms]
        assert [arm.name for arm in chosen] == list(recipe.arms)
    uncertainty = choose_arm("uncertainty", small(CosRegRooms)).build(
        ArmContext(("segmentation", "depth", "normals"), 0)
    )
    assert uncertainty.weighting.kinds == {
        "segmentation": "classification", "depth": "regression", "normals": "regression",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        n
        for n, r in all_recipes().items()
        if isinstance(r.problem, type) and issubclass(r.problem, DenseRooms)
    ],
)
def test_one_step_at_full_size(name):
    recipe = recipe_named(name)
    options = dict(recipe.scales["full"]) | {"train": 2, "test": 1, "batch_size": 2}
    epochs, _ = options.pop("epochs"), options.pop("seeds")
    if name == "cosreg-sunrgbd-streets":
        options["data"] = "rooms"
    problem = recipe.problem(**options)
    problem.epochs = epochs
    arm = {"cosreg": "cosreg", "great-": "great"}.get(name[:6], "gradnorm")
    chosen = choose_arm(arm, problem)
    training = Training(
        problem, chosen, 0, lambda model: ArmContext(problem.loss_names, 0, problem=problem, model=model)
    )
    training.step(0, *training.batch(0))
    with torch.no_grad():
        _, outputs = training.model(training.batch(0)[0])
    assert {output.shape[2:] for output in outputs.values()} == {(80, 80)}


@pytest.mark.slow
def test_rooms_are_learned_and_their_tasks_compete():
    """A narrow net that learns depth, too, is worse at classes than one that learns them alone."""
    found, depths = {}, {}
    for arm in ("single:depth", "single:segmentation", "equal"):
        for seed in (0, 1):
            problem = small(Rooms, stride=2, width=4, train=64, test=48, batch_size=8, lr=3e-3)
            problem.losses = {task: problem.losses[task] for task in ("depth", "segmentation")}
            problem.metrics = {name: make for name, make in problem.metrics.items() if "normals" not in name}
            problem.keep_last = True
            training, _ = trained(problem, arm, 12, seed)
            found[arm, seed], _ = training.evaluate(training.splits.test)
            truth = training.splits.test.targets
            with torch.no_grad():
                images, _ = training.splits.test.batch(torch.arange(48), None)
                depths[arm, seed] = training.model.eval()(images)[1].get("depth")
            iou = problem.make_metrics().get("segmentation/100-IoU")
            if iou is not None:
                iou.update(
                    torch.full_like(truth["segmentation"], rooms.CLASSES.index("wall")), truth["segmentation"]
                )
                found["constant", seed] = {
                    "depth/RMS": float(truth["depth"].std()),
                    "segmentation/100-IoU": float(iou.compute()),
                }

    def mean(arm, metric):
        return sum(found[arm, seed][metric] for seed in (0, 1)) / 2

    assert mean("single:depth", "depth/RMS") < 0.93 * mean("constant", "depth/RMS")
    alone = mean("single:segmentation", "segmentation/100-IoU")
    assert alone < mean("constant", "segmentation/100-IoU") - 0.05
    assert mean("equal", "segmentation/100-IoU") > alone + 0.02
    for seed in (0, 1):  # as good at depth, by other answers
        apart = (depths["equal", seed] - depths["single:depth", seed]).square().mean().sqrt()
        assert apart > 0.2


def test_cosreg_knows_the_cosine_of_every_step_and_one_loss_alone_has_none():
    for arm, records in (("cosreg", 1), ("single:depth", 0)):
        made, _ = trained(small(CosRegRooms, width=2), arm, 1)
        made.record_every, made.step_records = 10**9, []
        made.step(1, *made.batch(0))
        assert [len(record["cosines"]) for record in made.step_records] == [3] * records
