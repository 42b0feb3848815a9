"""How far the training is, and what the GREAT paper lets follow it."""

from __future__ import annotations

from manyloss import checks


def learning_rate_multiplier(fraction: float) -> float:
    """(1 - epoch / epochs)^0.9: what all learning parts follow (GREAT, supplement)."""
    return float((1.0 - fraction) ** 0.9)


def check_progress(fraction: float) -> None:
    """Refuse a fraction of the training outside [0, 1].

    Raises:
        ValueError: it lies outside.

    """
    if not 0.0 <= checks.number("the fraction of set_progress", fraction) <= 1.0:
        raise ValueError(f"set_progress takes epoch / epochs, a number in [0, 1]; received {fraction}.")
