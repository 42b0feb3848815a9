"""Optional libraries stay optional."""

import subprocess
import sys

import pytest

from manyloss.interop import from_torchjd

OPTIONAL = ("torchjd", "lightning", "accelerate", "transformers", "tensorboard")


def test_no_optional_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, manyloss, manyloss.interop, manyloss.diagnostics, "
        "manyloss.interop.torchjd\n"
        f"print([name for name in {OPTIONAL!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_torchjd_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "manyloss\[peers\]"'):
        from_torchjd(object())
