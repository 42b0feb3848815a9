"""Runs: a trial with its folder, a study of trials, and what executes them."""
