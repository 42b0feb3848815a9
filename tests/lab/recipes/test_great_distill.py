"""The distillation recipes: the papers' networks and numbers, one teacher for all, pictures from folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyloss.lab.analysis.results import TrialRecord
from manyloss.lab.arms import ArmContext, choose_arms
from manyloss.lab.checks import LabError
from manyloss.lab.datasets import mini_imagenet
from manyloss.lab.recipes import all_recipes, recipe_named
from manyloss.lab.recipes._adversarial_training import Classifier
from manyloss.lab.recipes._great_distill import ROWS, TEACHER
from manyloss.lab.recipes.great_distill_cnn import CnnFromResNet
from manyloss.lab.recipes.great_distill_digits import PASSES, SmallDigitDistillation
from manyloss.lab.recipes.great_distill_mini import MiniImageNet
from manyloss.lab.recipes.great_distill_resnext import ResNetFromResNeXt
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial
from manyloss.lab.training import Training
from tests.lab.recipes.made_cifar import write
from tests.lab.runs.test_trial import assert_same_trial

RECIPES = [name for name in all_recipes() if name.startswith(("great-distill", "great-sobolev"))]


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("problem", "student", "teacher"),
    [
        (lambda: CnnFromResNet(), 1_143_946, 11.17e6),
        (lambda: ResNetFromResNeXt(), 11.17e6, 34.4e6),
        (lambda: MiniImageNet(), 11.17e6 + 190 * 513, 58.14e6 + 200 * 2049),
        (lambda: MiniImageNet(image_size=224), 11.18e6 + 190 * 513, 58.14e6 + 200 * 2049),
    ],
)
def test_full_scale_networks_have_the_papers_sizes(problem, student, teacher):
    with torch.device("meta"):
        made = problem()
        assert count(made.student()) == pytest.approx(student, rel=0.03)
        assert count(made.teacher()) == pytest.approx(teacher, rel=0.03)
        discriminator = made.discriminator()
    slopes = {m.negative_slope for m in discriminator.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {0.2}


def options_of(problem):
    return {arm.name: arm.options for arm in choose_arms(ROWS, problem)}


def test_the_papers_settings():
    assert options_of(CnnFromResNet())["distillation"] == {"alpha": 0.1, "temperature": 20.0}
    assert options_of(CnnFromResNet(share=0.05))["distillation"] == {"alpha": 0.99, "temperature": 20.0}
    for share in (1.0, 0.05):
        soft = options_of(ResNetFromResNeXt(share=share))["distillation"]
        assert soft == {"alpha": 0.95, "temperature": 6.0}
    great = options_of(CnnFromResNet())["great"]
    assert (great["alpha"], great["adversarial"]) == (0.1, "minimax")
    epochs = {name: recipe_named(name).scales["full"]["epochs"] for name in RECIPES}
    assert epochs["great-distill-cnn"] == epochs["great-distill-cnn-5"] == 50
    assert epochs["great-distill-resnext"] == 100
    assert (epochs["great-distill-mini"], epochs["great-distill-mini-224"]) == (50, 30)
    assert (MiniImageNet().teacher_epochs, MiniImageNet(image_size=224).teacher_epochs) == (100, 50)
    optimizer = MiniImageNet().optimizer([torch.nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 5e-4)


def test_five_percent_are_counted_before_validation_is_held_out(tmp_path):
    write(tmp_path, per_batch=200)
    problem = CnnFromResNet(share=0.05, data_root=str(tmp_path), validation=100)
    train = problem.datasets(0).train
    assert torch.bincount(train.targets["class"]).tolist() == [5] * 10
    assert torch.equal(train.inputs, problem.datasets(1).train.inputs)
    everything = CnnFromResNet(data_root=str(tmp_path), validation=100).datasets(0)
    assert len(everything.train) == 900


# -- one teacher --------------------------------------------------------------------------------------------


def plan(name, root, arms=None, seeds=(0,)):
    options = dict(recipe_named(name).scales["smoke"])
    epochs = options.pop("epochs")
    options.pop("seeds")
    return Study.plan(Source(name, options), arms or recipe_named(name).arms, seeds, root, epochs=epochs)


def run(study):
    return {(spec.arm, spec.seed): Trial(spec).run() for spec in study.trials()}


def test_one_teacher_serves_all_seeds_and_the_studies_beside_it(tmp_path):
    first = plan("great-distill-cnn-5", tmp_path / "first", ["distillation"], seeds=(0, 1))
    teachers = [spec for spec in first.trials() if spec.arm == TEACHER]
    assert len(teachers) == 1
    results = run(first)
    assert {result["status"] for result in results.values()} == {"finished"}
    accuracy = results[TEACHER, 0]["test"]["class/accuracy"]
    assert results["distillation", 1]["record"] == {"teacher_accuracy": accuracy, "share": 0.05}
    assert results["distillation", 1]["words"] == {"teacher": f"{accuracy:.1%}"}

    second = plan("great-sobolev-5", tmp_path / "second")
    again = [spec for spec in second.trials() if spec.arm == TEACHER]
    assert again[0].folder == teachers[0].folder
    assert again[0].folder.is_relative_to(tmp_path / "prerequisites")
    assert TEACHER not in [spec.arm for spec in second.missing()]
    assert second._requires()["sobolev", 0] == [(TEACHER, 0)]

    options = {**first.source.options, "great.teacher_gradient": "output"}
    reading = Study.plan(Source("great-distill-cnn-5", options), ["great"], [0], tmp_path / "third", epochs=1)
    assert [spec.folder for spec in reading.trials() if spec.arm == TEACHER] == [teachers[0].folder]

    below = plan("great-distill-cnn-5", first.root / "readings" / "one")  # a study of a reading lies there
    assert TEACHER in [spec.arm for spec in below.missing()]
    below.take_over([first.root])
    assert {spec.label for spec in below.missing()} == {"great seed 0"}
    (copied,) = [spec.folder for spec in below.trials() if spec.arm == TEACHER]
    assert copied.is_relative_to(first.root / "readings" / "prerequisites")
    assert_same_trial(copied, teachers[0].folder)


@pytest.mark.parametrize(("teacher", "said"), [(0.70, True), (0.71, True), (0.73, False)])
def test_a_verdict_says_when_the_teacher_had_nothing_to_teach(teacher, said):
    def trial(arm, seed, accuracy, record=None):
        folder, test = Path("nowhere"), {"class/accuracy": accuracy}
        return TrialRecord(arm, seed, folder, "finished", test=test, record=record or {})

    alone = [trial("baseline", 0, 0.69), trial("baseline", 1, 0.73)]
    taught = [trial("great", 0, 0.7, {"teacher_accuracy": teacher, "share": 1.0})]
    found = CnnFromResNet().reasons({"baseline": alone, "great": taught})
    expected = f"the teacher is right on {teacher:.1%} of the test images, the student alone on 71.0%."
    assert [expected in each for each in found] == [True] * said
    assert CnnFromResNet().reasons({"baseline": alone}) == ()


def test_what_a_recipe_sets_of_itself_makes_another_teacher(tmp_path):
    """Both are of one class and have the same options; one's images are larger, and so are its networks."""
    names = (
        "great-distill-mini",
        "great-distill-mini-5",
        "great-distill-mini-224",
        "great-distill-mini-224-5",
    )
    folders = [
        spec.folder
        for name in names
        for spec in plan(name, tmp_path / name, ["great"]).trials()
        if spec.arm == TEACHER
    ]
    assert folders[0] == folders[1] != folders[2] == folders[3]


def test_another_teacher_lives_elsewhere(tmp_path):
    one = plan("great-distill-cnn", tmp_path / "one", ["great"])
    options = {**one.source.options, "teacher_epochs": 7}
    other = Study.plan(Source("great-distill-cnn", options), ["great"], [0], tmp_path / "two", epochs=1)
    folders = {spec.folder for study in (one, other) for spec in study.trials() if spec.arm == TEACHER}
    assert len(folders) == 2
    assert [spec.epochs for spec in other.trials() if spec.arm == TEACHER] == [7]
    assert {spec.epochs for spec in other.trials() if spec.arm != TEACHER} == {1}


def test_the_teacher_is_no_row(tmp_path):
    with pytest.raises(LabError, match="'teacher' is trained when other methods need it and is not compared"):
        plan("great-distill-cnn", tmp_path, ["teacher"])


def test_a_student_without_its_teacher_says_so(tmp_path):
    study = plan("great-distill-cnn", tmp_path / "run", ["great"])
    (student,) = [spec for spec in study.trials() if spec.arm == "great"]
    result = Trial(student).run()
    assert (result["status"], result["reason"]) == (
        "crashed",
        "'great' needs the trial 'teacher' of seed 0, which has not run.",
    )


@pytest.mark.parametrize("arm", ["baseline", "distillation", "great", "sobolev"])
def test_every_row_learns_one_batch_by_heart(arm, monkeypatch):
    problem = CnnFromResNet(data="digits", width=4)
    (chosen,) = choose_arms([arm], problem)
    torch.manual_seed(0)
    model, teacher = problem.model(), problem.teacher().eval()
    context = ArmContext(("class",), 0, problem=problem, model=model, checkpoints={TEACHER: "in memory"})
    problem.trained_teacher = lambda context: teacher
    way = chosen.build(context)
    x, y = torch.rand(10, 3, 32, 32), torch.arange(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        if arm == "baseline":
            problem.training_step(model, way, x, {"class": y}, None)
        else:
            way.step(model, x, {"class": y})
        optimizer.step()
    assert (model.network(x).argmax(1) == y).all()


@pytest.mark.parametrize(
    ("arm", "own"), [("baseline", False), ("distillation", False), ("great", True), ("sobolev", True)]
)
def test_only_what_differentiates_twice_keeps_pytorchs_own_layout(arm, own, tmp_path):
    """Teacher and discriminator are channels last in every row."""
    problem = CnnFromResNet(data="digits", width=4, train=200, validation=100, test=50, batch_size=20)
    problem.epochs = 1
    saved = tmp_path / "teacher.pt"
    torch.save({"state": {"best": {"model": Classifier(problem.teacher()).state_dict()}}}, saved)
    (chosen,) = choose_arms([arm], problem)
    chosen.apply(problem)

    def context(model):
        return ArmContext(("class",), 0, problem=problem, model=model, checkpoints={TEACHER: saved})

    training = Training(problem, chosen, 0, context)
    for _ in training.epochs():
        pass

    def is_last(network):
        first = next(each for each in network.modules() if isinstance(each, torch.nn.Conv2d))
        return first.weight.is_contiguous(memory_format=torch.channels_last)

    assert is_last(training.model) is not own
    if arm != "baseline":
        assert is_last(training.trainer.method.teacher)
    if arm == "great":
        assert is_last(training.trainer.method.discriminator)


# -- pictures from folders ----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    generator = np.random.default_rng(0)
    for split, count_of_class in (("train", 6), ("test", 2)):
        for name in ("n01", "n02", "n03"):
            folder = tmp_path / "mini-imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count_of_class):
                shape = tuple(generator.integers(70, 130, 2))
                picture = generator.integers(0, 256, (*shape, 3), np.uint8)
                if number == 1:
                    picture = picture[:, :, 0]  # grey pictures occur
                Image.fromarray(picture).save(folder / f"{name}_{number}.JPEG")
    return tmp_path


def test_folders_are_classes(folders):
    found = mini_imagenet.load(folders)
    assert found.classes == ("n01", "n02", "n03")
    assert found.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert [path.parent.name for path in found.test] == ["n01", "n01", "n02", "n02", "n03", "n03"]
    assert mini_imagenet.load(folders / "mini-imagenet").classes == found.classes


@pytest.mark.parametrize("size", [64, 224])
def test_pictures_are_scaled_and_cropped(folders, size):
    found = mini_imagenet.load(folders)
    split = mini_imagenet.CroppedPictures(found.train, found.train_labels, size)
    indices = torch.arange(18)
    images, targets = split.batch(indices, torch.Generator().manual_seed(0))
    assert images.shape == (18, 3, size, size)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(targets["class"], torch.tensor(found.train_labels))
    again, _ = split.batch(indices, torch.Generator().manual_seed(0))
    other, _ = split.batch(indices, torch.Generator().manual_seed(1))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert torch.equal(split.batch(indices, None)[0], split.batch(indices, None)[0])


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.9, 1.0), (0.3, 0.2, 0.6)])
def test_made_classes_overlap_as_much_as_they_are_asked_to(spread, low, high):
    """Told apart by the nearest mean colour alone, of which stripes without a spread keep nearly all."""
    found = mini_imagenet.made(10, 20, spread=spread)
    assert len(found.train) == len(found.test) == 200
    assert not np.array_equal(found.train[0], found.test[0])
    colours, others = (np.array([p.mean((0, 1)) for p in part]) for part in (found.train, found.test))
    means = np.array([colours[found.train_labels == label].mean(0) for label in range(10)])
    nearest = ((others[:, None] - means) ** 2).sum(2).argmin(1)
    assert low <= (nearest == found.test_labels).mean() <= high
    again = mini_imagenet.made(10, 20, spread=spread)
    assert all(np.array_equal(a, b) for a, b in zip(found.train, again.train, strict=True))


def test_evaluation_takes_the_middle():
    picture = np.zeros((70, 140, 3), np.uint8)
    picture[3:67, 38:102] = 255
    split = mini_imagenet.CroppedPictures([picture], np.zeros(1, np.int64), 64)
    assert bool((split.batch(torch.tensor([0]), None)[0] == 1).all())


def test_bad_folders_are_named(folders):
    with pytest.raises(LabError, match=r"mini-imagenet is in none of .*train/CLASS/\*\.JPEG"):
        mini_imagenet.load(folders / "elsewhere")
    problem = MiniImageNet("great-distill-mini", data_root=str(folders))
    with pytest.raises(LabError, match="mini-imagenet has 3 class folders, not 200"):
        problem.datasets(0)
    broken = folders / "mini-imagenet" / "train" / "n01" / "n01_0.JPEG"
    broken.write_bytes(b"no picture")
    found = mini_imagenet.load(folders)
    split = mini_imagenet.CroppedPictures(found.train, found.train_labels, 64)
    with pytest.raises(LabError, match=r"n01_0\.JPEG is damaged: cannot identify image file"):
        split.batch(torch.tensor([0]), None)
    for path in (folders / "mini-imagenet" / "test" / "n03").iterdir():
        path.unlink()
    with pytest.raises(LabError, match="n03 is damaged: no image in it"):
        mini_imagenet.load(folders)
    (folders / "mini-imagenet" / "test" / "n03").rmdir()
    with pytest.raises(LabError, match="train and test do not hold the same classes"):
        mini_imagenet.load(folders)


def test_folders_make_a_problem(folders):
    problem = MiniImageNet("great-distill-mini", data_root=str(folders), classes=3, validation=3, width=4)
    splits = problem.datasets(0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [15, 3, 6]
    images, _ = splits.train.batch(torch.arange(2), None)
    assert problem.model()(images)[1]["class"].shape == (2, 3)


# -- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("great-distill-cnn-5", "great"),
        ("great-defense-digits", "great-greace"),
        ("great-defense-digits", "pgd-training"),
        ("great-mtl-cifar", "great"),
    ],
)
def test_a_stopped_trial_goes_on_bit_by_bit(name, arm, tmp_path):
    def plan_two_epochs(folder):
        options = dict(recipe_named(name).scales["smoke"]) | {"train": 100}
        del options["epochs"], options["seeds"]
        return Study.plan(Source(name, options), [arm], [0], folder / "run", epochs=2)

    def stop(done, losses):
        if done == 1:
            raise KeyboardInterrupt

    results = []
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        for spec in (spec for spec in plan_two_epochs(folder).trials() if spec.arm != "equal"):
            if spec.arm == arm and folder.name == "stopped":
                with pytest.raises(KeyboardInterrupt):
                    Trial(spec).run(stop)
                assert not (spec.folder / "result.json").exists()
            result = Trial(spec).run()
        results.append(result)
    assert results[0]["status"] == "finished", results[0]["reason"]
    whole, stopped = ({k: v for k, v in r.items() if k not in ("seconds", "step_ms")} for r in results)
    assert whole == stopped


# -- the mechanism on small digits --------------------------------------------------------------------------


def test_every_seed_draws_other_digits_for_the_student_and_the_teacher_sees_all():
    student = SmallDigitDistillation()
    first, again, other = (student.datasets(seed).train for seed in (0, 0, 1))
    assert len(first) == 60 * PASSES
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.targets["class"].bincount().tolist() == [6 * PASSES] * 10
    assert len(SmallDigitDistillation(share=1.0).datasets(0).train) == 1200
    assert len(student.datasets(0).test) == 497
