"""Rows that gradient weightings are tried on, and what they make of them."""

import numpy as np
import torch

from manyloss.gradients import LossGradients

KINDS = ["wide", "alike", "conflict", "lengths"]


def rows_of(kind: str, count: int, seed: int) -> np.ndarray:
    """Independent rows, more numbers than losses."""
    generator = np.random.default_rng([count, seed])
    rows = generator.normal(size=(count, count + 6))
    if kind == "alike":
        rows = rows + 2.0
    if kind == "conflict":
        rows = rows - 0.9 * rows.mean(axis=0)
    if kind == "lengths":
        rows = rows * np.exp(2 * generator.normal(size=(count, 1)))
    return rows


def weights_of(method, rows: np.ndarray) -> np.ndarray:
    return method(LossGradients.of(torch.from_numpy(rows))).numpy()


def step_of(method, rows: np.ndarray) -> np.ndarray:
    return weights_of(method, rows) @ rows
