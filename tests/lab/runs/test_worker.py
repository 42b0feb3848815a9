"""What is particular to a trial's own process."""

import platform
from pathlib import Path

import pytest
import torch

from manyloss.lab.runs.worker import keep_freed_memory
from tests.forkserver import CONTEXT, ended, started

MEGABYTE = 2**20


def resident():
    """Of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // MEGABYTE


def use_and_free(answer):
    sizes = [resident()]
    for keep in (False, True):
        if keep:
            keep_freed_memory()
        tensor = torch.ones(25 * MEGABYTE)
        del tensor
        sizes.append(resident())
    answer.put(sizes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_the_memory_of_a_large_tensor_is_kept_for_the_next_one():
    answer = CONTEXT.SimpleQueue()
    process = started(use_and_free, answer)
    before, given_back, kept = answer.get()
    assert ended([process]) == [0]
    assert given_back - before < 20
    assert kept - before > 80


def test_another_c_library_is_left_as_it_is(monkeypatch):
    for missing in (OSError, TypeError):
        with monkeypatch.context() as patched:
            patched.setattr("ctypes.CDLL", lambda _, error=missing: (_ for _ in ()).throw(error))
            keep_freed_memory()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory()
