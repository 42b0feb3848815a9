"""The sentences of a comparison: numbers as text, one about each row, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from manyloss.lab.analysis.statistics import SIGNIFICANCE, Comparison, Interval, told_from


def percent(fraction: float, *, signed: bool = True, digits: int = 1) -> str:
    """``0.0123`` -> ``+1.2%``, with a true minus sign."""
    text = f"{abs(100 * fraction):.{digits}f}"
    sign = "" if float(text) == 0 else "−" if fraction < 0 else "+" if signed else ""
    return f"{sign}{text}%"


def size_text(fraction: float) -> str:
    """``0.123`` -> ``12%``: no more digits than the size of a difference needs."""
    return percent(fraction, signed=False, digits=0 if fraction >= 0.1 else 1 if fraction >= 0.001 else 2)


def percent_digits(interval: Interval) -> int:
    """How many digits of a relative change its interval gives a meaning to."""
    size = abs(interval.mean) if interval.half_width is None else interval.half_width
    return 1 if size >= 0.001 else 2


def p_text(p: float) -> str:
    """``0.0004`` -> ``p < 0.001``; otherwise two digits that matter."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def baseline_words(baseline: str) -> str:
    """The baseline in a sentence: ``equal`` reads as "equal weights"."""
    return {"equal": "equal weights", "tuned sum": "the tuned sum"}.get(baseline, baseline)


def explain(row: Comparison, baseline: str, planned: int, reason: str | None = None) -> str:
    """One plain sentence about one arm.

    Args:
        row: its comparison.
        baseline: the baseline's name.
        planned: how many seeds were planned.
        reason: why it has fewer finished trials than planned, as a clause ("seed 3 diverged").

    """
    against = baseline_words(baseline)
    done = len(row.seeds)
    missing = f"; {done} of {planned} seeds finished: {reason}" if reason and done < planned else ""
    if not done:
        return f"{row.arm}: no result, {reason or 'no trial has finished'}."
    if row.outcome == "baseline":
        return f"{row.arm}: what the others are compared with{missing}."
    if row.change is None:
        why = next(iter(row.undefined.values()), row.test.reason)
        return f"{row.arm}: cannot be compared with {against}, {why}{missing}."
    for why in dict.fromkeys(row.undefined.values()):
        seeds = [str(seed) for seed, its in row.undefined.items() if its == why]
        missing += f"; without seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {why}"
    digits = percent_digits(row.change)
    change = f"{row.arm}: {percent(row.change.mean, digits=digits)} against {against}"
    if row.change.low is None or row.change.high is None:
        return f"{change} on one seed, which says nothing about noise{missing}."
    low, high = percent(row.change.low, digits=digits), percent(row.change.high, digits=digits)
    over = f", 95% interval {low} to {high} over {row.change.count} seeds"
    if row.test.adjusted is None and row.outcome != "no difference":
        return f"{change}{over}: not tested, {row.test.reason}{missing}."
    if row.test.p == 1 and row.test.reason is not None:
        return f"{row.arm}: {row.test.reason} to {against}, {row.change.count} seeds{missing}."
    if row.outcome == "no difference" or row.test.adjusted is None:
        asked = f"the {percent(row.smallest, signed=False)} asked for"
        than = asked if row.smallest_is == "asked for" else row.smallest_is
        less = f", less than {than}" if than else ""
        return f"{change}{over}: no difference{less}{missing}."
    p = p_text(row.test.adjusted)
    if row.outcome in ("better", "worse"):
        return f"{change}{over}: {row.outcome}, beyond noise ({p}){missing}."
    if row.test.p is not None and row.test.p < SIGNIFICANCE:
        alone = f"{p} corrected for the number of methods, {p_text(row.test.p)} alone"
        return f"{change}{over}: within noise ({alone}){missing}."
    return f"{change}{over}: within noise ({p}){missing}."


def verdict(rows: Sequence[Comparison], baseline: str, *, pending: int = 0, with_limits: bool = True) -> str:
    """The answer in one or two sentences.

    Args:
        rows: the comparisons, in the table's order.
        baseline: the baseline's name.
        pending: how many trials still have to run.
        with_limits: add how large a difference would have been seen.

    """
    against = baseline_words(baseline)
    others = [row for row in rows if row.outcome != "baseline"]
    trials = "1 trial" if pending == 1 else f"{pending} trials"
    so_far = f"So far, with {trials} still to run: " if pending else ""
    if not any(row.seeds for row in rows):
        return f"{so_far}no trial has finished." if pending else "No trial finished: there is no result."
    if not any(row.outcome == "baseline" and row.seeds for row in rows):
        return f"{so_far}{against} has no finished trial, so nothing can be compared with it."
    if not others:
        return f"{so_far}{'only' if so_far else 'Only'} {against} was run, so there is nothing to compare."
    if all(row.outcome in ("untested", "no result") for row in others) and any(
        row.test.pairs == 1 for row in others
    ):
        alone = "seed cannot tell a difference from noise"
        return f"{so_far}one {alone}." if so_far else f"One {alone}: run more (`--seeds 5`)."
    if all(row.outcome in ("untested", "no result") for row in others) and any(
        row.test.pairs == 2 for row in others
    ):
        two = "two seeds are too few for a verdict"
        return f"{so_far}{two}." if so_far else f"{two.capitalize()}: run more (`--seeds 5`)."
    better, worse, noise, same, untested, without = (
        [row.arm for row in others if row.outcome == outcome]
        for outcome in ("better", "worse", "noise", "no difference", "untested", "no result")
    )
    parts = []
    if better:
        parts.append(f"{listed(better)} {_verb(better, 'beats', 'beat')} {against} beyond noise")
    if worse:
        than = "" if better else f" than {against}"
        parts.append(f"{listed(worse)} {_verb(worse, 'is', 'are')} worse{than} beyond noise")
    if noise and parts:
        parts.append(f"{listed(noise)} {_verb(noise, 'is', 'are')} within noise")
    elif noise:
        parts.append(
            f"{listed(noise)} {_verb(noise, 'does', 'do')} not differ from {against} by more than noise"
        )
    if same:
        parts.append(f"{listed(same)} {_verb(same, 'makes', 'make')} no difference")
    if untested:
        parts.append(f"{listed(untested)} could not be tested")
    if without:
        parts.append(f"{listed(without)} {_verb(without, 'has', 'have')} no result")
    sentence = so_far + "; ".join(parts) + "."
    noisy = {row.arm: row.change for row in others if row.outcome == "noise" and row.change}
    untold = sum(row.test.adjusted is not None and row.test.adjusted >= SIGNIFICANCE for row in others)
    limits = {arm: limit for arm, change in noisy.items() if (limit := told_from(change, untold))}
    if limits and with_limits:
        seeds = max(change.count for change in noisy.values())
        sentence += f" With {seeds} seeds, {limits_text(limits, 'method')}."
    return sentence


def limits_text(limits: Mapping[str, float], each: str) -> str:
    """How large a difference had to be: the median of what `told_from` gave, and both ends by name."""
    text = f"differences below {size_text(median(limits.values()))} could not be told from noise"
    least, most = min(limits, key=lambda name: limits[name]), max(limits, key=lambda name: limits[name])
    low, high = size_text(limits[least]), size_text(limits[most])
    return text if low == high else f"{text} (the median {each}; {low} for {least}, {high} for {most})"


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
