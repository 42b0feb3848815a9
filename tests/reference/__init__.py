"""Naive oracles: every method written a second time from its paper, slow and plain, and never from src.

All of them take and give numpy float64 (the step and the penalties: torch float64). A row of `gradients`
is one loss's gradient, flattened unless the method needs the shape.
"""
