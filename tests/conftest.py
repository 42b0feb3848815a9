"""Every test starts from the same seed, and one thread each keeps tiny tensors fast."""

import os
import random

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (code under test may use the global generator)
    torch.manual_seed(0)
