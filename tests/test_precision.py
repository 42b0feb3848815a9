"""Products of float32 that are float32 on a GPU too, and the caller's own choice afterwards."""

import pytest
import torch

from manyloss.precision import without_tf32
from manyloss.robustness import evaluate


def switches():
    """Torch refuses to read the old switches once the new ones were used."""
    try:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture
def as_before():
    before = torch.get_float32_matmul_precision()
    yield
    if hasattr(torch.backends.cudnn, "conv"):
        torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("as_before")
def test_the_old_switches_are_off_inside_and_as_before_outside():
    torch.set_float32_matmul_precision("high")
    before = switches()
    assert before == (True, True)
    with pytest.raises(KeyError), without_tf32():
        assert switches() == (False, False)
        raise KeyError
    assert switches() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the old switches only")
@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("own", ["ieee", "tf32"])
def test_the_new_switches_are_off_inside_and_as_before_outside(own):
    torch.backends.cudnn.conv.fp32_precision = own
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    with without_tf32():
        assert True not in switches()
        assert "tf32" not in switches()
    after = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert after == before


def test_a_model_is_attacked_without_tf32():
    seen = set()

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.add(switches())
            return super().forward(x.flatten(1))

    assert switches()[0]
    evaluate(Watched(12, 3), torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]), eps=0.1)
    assert seen == {(False, False)}
    assert switches()[0]
