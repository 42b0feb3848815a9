"""FeaturesOf takes every call and every tensor that carries a gradient, and nothing else."""

import copy
import gc
import pickle
import weakref
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from manyloss import MultiLoss
from manyloss.interop import FeaturesOf
from manyloss.weighting import MGDA


@dataclass
class Levels:
    coarse: Tensor
    fine: dict


class Returns(nn.Module):
    """Three independent levels, in a form that ``form`` makes of them."""

    def __init__(self, form):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(3, 4) for _ in range(3))
        self.form = form

    def forward(self, x):
        return self.form([layer(x) for layer in self.layers])


Pair = namedtuple("Pair", "first rest")
FORMS = {
    "list": list,
    "tuple": tuple,
    "dict": lambda levels: dict(zip("abc", levels, strict=True)),
    "nested": lambda levels: {"a": levels[0], "b": ([levels[1]], {"c": levels[2]})},
    "namedtuple": lambda levels: Pair(levels[0], levels[1:]),
    "dataclass": lambda levels: Levels(levels[0], {"b": levels[1], "c": levels[2]}),
    "twice": lambda levels: [*levels, levels[0]],
    "with constants": lambda levels: (*levels, torch.ones(2), None, "text", levels[0].detach()),
}


def x(rows: int = 5) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_of_an_output_is_taken_once(form) -> None:
    module = Returns(FORMS[form])
    taken = FeaturesOf(module)
    module(x())
    levels = taken.take()
    assert len(levels) == 3
    assert all(torch.equal(z, layer(x())) for z, layer in zip(levels, module.layers, strict=True))


def test_a_packed_sequence_gives_its_data() -> None:
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return pack_padded_sequence(self.layer(x), torch.tensor([2, 1]), batch_first=True)

    module = Packed()
    taken = FeaturesOf(module)
    output = module(torch.randn(2, 2, 3))
    assert taken.take() is output.data


def test_a_hugging_face_output_is_a_mapping() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    module = Returns(lambda levels: outputs.BaseModelOutput(last_hidden_state=levels[0]))
    taken = FeaturesOf(module)
    output = module(x())
    assert taken.take() is output.last_hidden_state


def siamese(features) -> tuple[nn.Module, MultiLoss, object]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    taken = FeaturesOf(encoder)
    za, zb = encoder(x()), encoder(-2 * x())
    losses = [(za - zb).square().sum(), (za + zb - 1).square().sum()]
    multi = MultiLoss(MGDA())
    multi.backward(losses, features=features(taken, za, zb))
    return encoder, multi, taken


def test_two_views_through_one_encoder_are_both_taken() -> None:
    one, _, _ = siamese(lambda taken, za, zb: taken.take())
    other, _, _ = siamese(lambda taken, za, zb: [za, zb])
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_several_modules_are_one_list() -> None:
    a, b = nn.Linear(3, 4), nn.Linear(3, 4)
    taken = FeaturesOf(a, b)
    za, zb = a(x()), b(x())
    first, second = taken.take()
    assert first is za
    assert second is zb


def test_evaluation_in_between_is_not_taken() -> None:
    module = nn.Linear(3, 4)
    taken = FeaturesOf(module)
    z = module(x())
    module.eval()
    module(x())
    module.train()
    with torch.no_grad():
        module(x())
    with torch.inference_mode():
        module(x())
    assert taken.take() is z


def test_what_was_left_out_is_named() -> None:
    module = nn.Linear(3, 4)
    taken = FeaturesOf(module)
    with pytest.raises(RuntimeError, match=r"FeaturesOf\(Linear\) saw no forward since the last take"):
        taken.take()
    module.eval()(x())
    with pytest.raises(
        RuntimeError, match=r"only forwards in evaluation mode \(FeaturesOf\(\.\.\., in_eval=T"
    ):
        taken.take()
    with torch.no_grad():
        module.train()(x())
    with pytest.raises(RuntimeError, match=r"saw only forwards without gradient \(under torch\.no_grad"):
        taken.take()
    frozen = FeaturesOf(module, in_eval=True)
    z = module.eval()(x())
    assert frozen.take() is z


def test_nothing_is_held_after_take() -> None:
    module = nn.Linear(3, 4)
    taken = FeaturesOf(module)
    z = module(x())
    held = weakref.ref(z)
    z = None
    assert held() is not None
    taken.take()
    gc.collect()
    assert held() is None


def test_a_copy_of_the_model_neither_shares_nor_steals() -> None:
    """The copy is made, and runs, between the forward and take()."""
    module = nn.Linear(3, 4)
    taken = FeaturesOf(module)
    z = module(x())
    average = copy.deepcopy(module)
    again = pickle.loads(pickle.dumps(module))
    outputs = [average(x()), again(x())]
    held = [weakref.ref(output) for output in outputs]
    outputs = None
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert taken.take() is z


def test_as_part_of_the_model_it_is_copied_with_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.encoded = FeaturesOf(model[0])
    model(x())
    other = copy.deepcopy(model)
    other(x(7))
    assert tuple(other.encoded.take().shape) == (7, 4)
    assert tuple(model.encoded.take().shape) == (5, 4)
    other.encoded.close()
    other(x(7))
    with pytest.raises(RuntimeError, match="saw no forward"):
        other.encoded.take()
    model(x())
    model.encoded.take()


class Hidden(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.form = form

    def forward(self, x):
        hidden = self.first(x)
        return self.form(hidden, self.second(hidden))


def test_states_computed_from_each_other_are_refused_by_name() -> None:
    module = Hidden(lambda hidden, last: {"hidden": hidden, "last": last})
    taken = FeaturesOf(module)
    with pytest.raises(ValueError, match=r"'last' is computed from 'hidden'.*select='hidden'"):
        module(x())
    with pytest.raises(RuntimeError, match="saw no forward"):
        taken.take()
    module.form = lambda hidden, last: (last, [hidden])
    with pytest.raises(ValueError, match=r"'\[0\]' is computed from '\[1\]\[0\]'"):
        module(x())


@pytest.mark.parametrize(
    ("form", "select"),
    [
        (lambda hidden, last: {"hidden": hidden, "last": last}, "last"),
        (lambda hidden, last: (hidden, last), 1),
        (lambda hidden, last: (hidden, last), -1),
        (lambda hidden, last: Levels(hidden, last), "fine"),
        (lambda hidden, last: (hidden, last), lambda output: output[1]),
    ],
)
def test_one_of_them_is_selected(form, select) -> None:
    module = Hidden(form)
    taken = FeaturesOf(module, select=select)
    module(x())
    assert torch.equal(taken.take(), module.second(module.first(x())))


def test_a_selection_that_is_not_there_lists_what_is() -> None:
    module = Hidden(lambda hidden, last: {"hidden": hidden, "last": last})
    taken = FeaturesOf(module, select="pooled")
    with pytest.raises(
        ValueError, match=r"'pooled' is nothing in the output, a dict that holds 'hidden', 'last'"
    ):
        module(x())
    taken.close()
    module(x())
    with pytest.raises(ValueError, match="FeaturesOf needs a module"):
        FeaturesOf()
    with pytest.raises(TypeError, match=r"what FeaturesOf takes must be a torch\.nn\.Module, got 'encoder'"):
        FeaturesOf("encoder")  # type: ignore[arg-type]
