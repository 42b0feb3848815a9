import pytest
import torch

from manyloss.robustness import evaluate
from tests.robustness import nets


@pytest.fixture(scope="session")
def held_out():
    return nets.digits()[1]


@pytest.fixture(scope="session")
def four_nets():
    state = torch.get_rng_state()
    undefended = nets.trained(15)
    made = {
        "undefended": undefended,
        "pgd-trained": nets.trained(16, nets.EPS),
        "shattered": nets.Shattered(undefended),
        "scaled": nets.Scaled(undefended),
    }
    torch.set_rng_state(state)
    return made


@pytest.fixture(scope="session")
def reports(four_nets, held_out):
    surrogate = nets.trained(8)
    return {
        name: evaluate(model, held_out, eps=nets.EPS, surrogate=surrogate)
        for name, model in four_nets.items()
    }
