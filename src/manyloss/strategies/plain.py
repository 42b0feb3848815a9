"""Nothing is read: one ordinary backward of the weighted losses."""

from __future__ import annotations

from manyloss.strategies._step import Outcome, Step


def run(step: Step) -> Outcome:
    """Write sum_i w_i grad L_i."""
    step.backward()
    return Outcome(step.weights)


def pass_on(step: Step) -> Outcome:
    """Something is not finite and a scaler skips the step: plain gradients, so that it sees them."""
    step.weights = [1.0] * len(step.names)
    step.backward()
    return Outcome(step.weights, skipped=True)
