import numpy as np

from manyloss.lab.datasets import digits


def test_all_digits_are_there_on_the_byte_scale():
    images, labels, source = digits.load()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert set(labels.tolist()) == set(range(10))
    assert "scikit-learn" in source
