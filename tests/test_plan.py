"""The plan is a pure function of what is needed and what the graph allows."""

import itertools
from dataclasses import FrozenInstanceError

import pytest

from manyloss.plan import Facts, Needs, Plan, plan

NORMS = Needs(values=True, norms=True)  # GradNorm
GRAMIAN = Needs(gramian=True, replaces=True)  # MGDA
ENTRIES = Needs(gradients=True, replaces=True)  # GradDrop
PENALTY = Needs(differentiable=True)  # CosReg
BOTH = Facts(features=True, params=True, separate=True, exclusive=True)
FEATURES = BOTH._replace(params=False)
PARAMS = Facts(features=False, params=True, exclusive=True)


@pytest.mark.parametrize("facts", [BOTH, FEATURES, PARAMS], ids=["both", "features", "params"])
def test_what_needs_no_gradients_is_one_plain_backward(facts: Facts) -> None:
    decided = plan(Needs(values=True), facts)
    assert (decided.strategy, decided.merged_at, decided.measured_at) == ("plain", None, None)


@pytest.mark.parametrize(
    ("needs", "facts", "strategy", "merged", "measured"),
    [
        (GRAMIAN, FEATURES, "one_backward", "features", "features"),
        (GRAMIAN, BOTH, "one_backward", "features", "shared_params"),
        (GRAMIAN, PARAMS, "direct", "shared_params", "shared_params"),
        (NORMS, FEATURES, "one_backward", None, "features"),
        (NORMS, BOTH, "one_backward", None, "shared_params"),
        (NORMS, PARAMS, "per_loss", None, "shared_params"),
        (ENTRIES, FEATURES, "one_backward", "features", None),
        (ENTRIES, PARAMS, "direct", "shared_params", None),
        (PENALTY, FEATURES, "per_loss", None, "features"),
        (PENALTY | GRAMIAN, BOTH, "per_loss", "features", "shared_params"),
        (
            GRAMIAN,
            FEATURES._replace(separate=False, why_not_separate="a neck"),
            "per_loss",
            "features",
            "features",
        ),
        (GRAMIAN, FEATURES._replace(zero_weight=True), "per_loss", "features", "features"),
        (GRAMIAN, PARAMS._replace(listened=True), "per_loss", "shared_params", "shared_params"),
        (GRAMIAN, PARAMS._replace(exclusive=False), "per_loss", "shared_params", "shared_params"),
    ],
)
def test_who_reads_where(needs: Needs, facts: Facts, strategy: str, merged: str, measured: str) -> None:
    decided = plan(needs, facts)
    assert (decided.strategy, decided.merged_at, decided.measured_at) == (strategy, merged, measured)


def test_whoever_looks_on_does_not_move_the_place() -> None:
    """A series is measured at one place, in steps with and without a recorder, by every method."""
    for needs, facts in itertools.product([NORMS, GRAMIAN, ENTRIES, PENALTY], [BOTH, FEATURES, PARAMS]):
        seen = plan(needs, facts, measure=True).measured_at
        assert plan(needs, facts).measured_at in (seen, None)
        assert seen == ("shared_params" if facts.params else "features")


def test_the_virtual_layer_stands_for_the_features_only() -> None:
    assert plan(GRAMIAN, FEATURES, virtual_layer=True).measured_at == "virtual_layer"
    assert plan(GRAMIAN, BOTH, virtual_layer=True).measured_at == "shared_params"


def test_evidence_at_the_features_is_looked_at_where_a_method_takes_it() -> None:
    assert plan(GRAMIAN, FEATURES).refuse_separated
    assert not plan(GRAMIAN, BOTH).refuse_separated
    assert not plan(GRAMIAN, FEATURES, virtual_layer=True).refuse_separated
    assert not plan(NORMS, FEATURES, measure=True).refuse_separated


def test_a_way_of_reading_can_be_forced_where_it_is_right() -> None:
    assert plan(GRAMIAN, FEATURES, read="per_loss").strategy == "per_loss"
    assert plan(GRAMIAN, PARAMS, read="per_loss").strategy == "per_loss"
    assert plan(GRAMIAN, FEATURES, read="one_backward").strategy == "one_backward"
    with pytest.raises(
        ValueError, match=r'read="one_backward" cannot be done here: a neck\. Use read="auto"'
    ):
        plan(GRAMIAN, FEATURES._replace(separate=False, why_not_separate="a neck"), read="one_backward")
    with pytest.raises(ValueError, match="no features are given"):
        plan(GRAMIAN, PARAMS, read="one_backward")


def test_it_is_frozen_and_can_be_printed() -> None:
    decided = plan(GRAMIAN, FEATURES)
    assert "strategy='one_backward'" in repr(decided)
    assert "measured_at='features'" in repr(decided)
    with pytest.raises(FrozenInstanceError):
        decided.strategy = "plain"  # type: ignore[misc]
    assert decided == Plan(
        "one_backward",
        "features",
        "features",
        gramian=True,
        refuse_separated=True,
        because="every edge into the features belongs to one loss",
    )


def test_needs_join() -> None:
    assert Needs(values=True, norms=True, gramian=True, replaces=True) == NORMS | GRAMIAN
    assert not Needs(values=True, features=True).place
    assert Needs(norms=True).place
