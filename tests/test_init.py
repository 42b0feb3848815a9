"""The package's names come when they are asked for: the command's help needs no torch."""

import subprocess
import sys

import pytest

import manyloss

HELP = """
import sys
from manyloss.cli import main
sys.argv = ["manyloss", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("words", [["--version"], ["compare", "--help"]])
def test_help_and_version_need_no_torch(words):
    done = subprocess.run([sys.executable, "-c", HELP, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "manyloss" in done.stdout


def test_every_name_is_there_and_is_the_one_of_its_module():
    from manyloss.catalog import method
    from manyloss.step import MultiLoss

    assert manyloss.MultiLoss is MultiLoss
    assert manyloss.method is method
    assert all(getattr(manyloss, name) is not None for name in manyloss.__all__)
    assert set(manyloss.__all__) <= set(dir(manyloss))
    assert manyloss.weighting.__name__ == "manyloss.weighting"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'manyloss' has no attribute 'MultiLos'"):
        _ = manyloss.MultiLos
    assert not hasattr(manyloss, "nothing")


def test_a_module_that_misses_another_says_which(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_not_there")
    monkeypatch.setattr(manyloss, "__path__", [*manyloss.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        _ = manyloss.needs_more
