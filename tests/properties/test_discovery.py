"""The suite knows every method, and the three tables kept by hand know nothing else."""

import inspect

import pytest

import manyloss.aggregation
import manyloss.penalties
import manyloss.weighting
from tests.properties.methods import (
    CASES,
    NOT_PLAIN_FOR_ONE_LOSS,
    NOT_SCALE_EQUIVARIANT,
    RANDOM_BY_LOSS,
    REQUIRED,
    SCALE_EQUIVARIANT,
    MethodCase,
    every_method,
    missing_arguments,
)

EXPECTED = {
    "weighting": """Equal Static Random Uncertainty DWA InitialLoss GradNorm
                    MGDA PCGrad IterativePCGrad CAGrad""",
    "aggregation": "Sum GradDrop",
    "penalties": "CosReg GradientPenalty",
}


@pytest.mark.parametrize("family", EXPECTED)
def test_a_family_has_the_methods_of_the_design(family: str) -> None:
    assert {case.name for case in CASES if case.family == family} >= set(EXPECTED[family].split())


@every_method
def test_the_table_gives_every_required_argument(case: MethodCase) -> None:
    assert missing_arguments(case) == [], f"add {case.name} to REQUIRED in tests/properties/methods.py"


def test_the_tables_name_only_methods_that_exist() -> None:
    known = {case.name for case in CASES}
    assert known >= set(REQUIRED) | NOT_PLAIN_FOR_ONE_LOSS | RANDOM_BY_LOSS
    assert known >= SCALE_EQUIVARIANT | NOT_SCALE_EQUIVARIANT


@pytest.mark.parametrize("family", [manyloss.weighting, manyloss.aggregation, manyloss.penalties])
def test_no_public_name_is_listed_twice(family) -> None:
    assert sorted(family.__all__) == sorted(set(family.__all__))


@every_method
def test_a_method_has_a_docstring(case: MethodCase) -> None:
    assert len(inspect.getdoc(case.cls) or "") > 15


@every_method
def test_nothing_is_for_the_users_optimiser(case: MethodCase) -> None:
    multi = case.multi()
    assert list(multi.parameters()) == []
    network = case.network()
    case.step(multi, network)
    assert list(multi.parameters()) == []
