"""Methods by name: what is listed is what there is, and text builds what Python would."""

import inspect

import pytest

import manyloss
from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg
from manyloss.weighting import MGDA, GradNorm, PCGrad, Static
from tests.properties.methods import MethodCase, every_method

NEEDS_MORE = {"static": "static:a=1:b=2", "gradient-penalty": "gradient-penalty:weight=0.5"}


def text_of(name: str) -> str:
    return NEEDS_MORE.get(name, name)


@every_method
def test_every_method_is_listed_under_a_name_of_its_own(case: MethodCase) -> None:
    info = manyloss.methods()[case.cls.name]
    assert info.cls is case.cls
    assert len(info.summary) > 15
    assert info.summary.endswith((".", "!"))
    assert info.cost


@every_method
def test_every_method_is_built_from_text(case: MethodCase) -> None:
    built = manyloss.method(text_of(case.cls.name), seed=3)
    assert type(built) is case.cls
    if "seed" in inspect.signature(case.cls).parameters:
        assert built.generator.initial_seed() == 3


@every_method
def test_every_value_worth_trying_can_be_written(case: MethodCase) -> None:
    for option, values in case.cls.search.items():
        assert values
        for value in values:
            built = manyloss.method(f"{case.cls.name}:{option}={value}")
            kept = getattr(built, option, None) if option != "lr" else built.inner.lr
            assert kept == value


def test_values_are_what_python_would_read() -> None:
    built = manyloss.method("graddrop:leak=[0.1, 0.2]:k=2:sum_over_batch=false:renormalize=True")
    assert (built.leak, built.k, built.sum_over_batch, built.renormalize) == ([0.1, 0.2], 2, False, True)
    assert manyloss.method("mgda:normalize=loss+").normalize == "loss+"
    assert manyloss.method("mgda:normalize=none").normalize is None
    assert manyloss.method("static:left=0.5:right=2").weights == {"left": 0.5, "right": 2}
    kinds = {"a": "regression", "b": "classification"}
    assert manyloss.method(f"uncertainty:kinds={kinds}:lr=0.1").kinds == kinds
    assert manyloss.method("graddrop:seed=5", seed=3).generator.initial_seed() == 5


def test_a_multi_loss_has_every_part_in_its_place() -> None:
    multi = manyloss.multi_loss("gradnorm:alpha=0.5", "graddrop", "cosreg:alpha=2", seed=4, read="per_loss")
    assert isinstance(multi, MultiLoss)
    assert isinstance(multi.weighting, GradNorm)
    assert multi.weighting.alpha == 0.5
    assert isinstance(multi.aggregator, GradDrop)
    assert multi.aggregator.generator.initial_seed() == 4
    assert [type(penalty) for penalty in multi.penalties] == [CosReg]
    assert multi.settings.read == "per_loss"
    assert isinstance(manyloss.multi_loss("pcgrad", seed=0).weighting, PCGrad)
    assert isinstance(manyloss.multi_loss("static:a=1").weighting, Static)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradnom", "no method 'gradnom'. Did you mean 'gradnorm'"),
        ("?", r"no method '\?'. There are: 'aligned-mtl', "),
        ("gradnorm:alfa=1", "Method 'gradnorm' has no option 'alfa'. Did you mean 'alpha'?"),
        ("gradnorm:optimizer=adam", "Method 'gradnorm' has no option 'optimizer'"),
        ("pcgrad:x=1", "Method 'pcgrad' has no option 'x'. There are: none"),
        ("gradnorm:alpha", "written name:option=value; received 'alpha' in 'gradnorm:alpha'"),
        ("gradient-penalty", "needs weight: write gradient-penalty:weight=..."),
        ("static", "write static:weights=..., or static:LOSS=...:OTHER=... for one value per loss"),
        (
            "gradnorm:alpha=x",
            "Method 'gradnorm' cannot be built from 'gradnorm:alpha=x': alpha must be a number, got the "
            "text 'x'",
        ),
        ("mgda:normalize=l1", "normalize must be one of None, 'l2'"),
    ],
)
def test_what_cannot_be_built_is_an_error_with_a_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manyloss.method(text)


def test_two_methods_for_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="'mgda' and 'gradnorm' are both weightings, and a step has one"):
        manyloss.multi_loss("mgda", "gradnorm")
    with pytest.raises(ValueError, match="'graddrop' and 'sum' are both aggregators"):
        manyloss.multi_loss("graddrop", "sum")


def test_what_a_method_says_about_its_needs() -> None:
    known = manyloss.methods()
    assert known["equal"].cost == "nothing"
    assert "norms" in known["gradnorm"].cost
    assert "inner products" in known["mgda"].cost
    assert known["mgda"].cls is MGDA
    assert "gradients of all" in known["graddrop"].cost
    assert "double backward" in known["cosreg"].cost
    assert known["gradnorm"].search["alpha"]
    assert known["mgda"].scale == "convex combination"
