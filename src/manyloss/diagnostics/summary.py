"""diagnose: "do my losses conflict, where, and is it worth doing something", in words and figures.

The thresholds are conventions, chosen so that noise is not called conflict, and they are all here:

- A pair of losses *conflicts* when its mean cosine over the records is below `CONFLICT` and the 95 % interval
  of that mean lies below 0. Cosines of random gradients are negative half of the time: a share of negative
  cosines near one half with a mean near 0 is no conflict.
- The interval is Student's over means of consecutive blocks, since neighbouring records are alike.
- Conflict is *strong* when a pair's mean is below `STRONG`, or a loss of a conflicting pair is *overruled*:
  in more than `OVERRULED` of the records the plain sum of the gradients points against it.
- Norms are *uneven* when the largest mean share is more than `UNEVEN` times the smallest.
- With many pairs a few conflict by chance: up to `BY_CHANCE` of them count as none.
- A loss is *learned by heart* when from the first to the last third of the records its gradient shrinks below
  `VANISHED` of what it was, and its share of the weights grows above `MOST`.
- Fewer than `FEWEST` records say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

CONFLICT = -0.05
STRONG = -0.2
OVERRULED = 0.25
UNEVEN = 10.0
BY_CHANCE = 0.025
VANISHED = 0.1
MOST = 0.8
FEWEST = 10
#: A change of the share of negative cosines from the first to the last third that is worth a sentence.
CHANGE = 0.15

Verdict = Literal["unclear", "none", "mild", "strong"]
_BLOCKS = 10
_STUDENT = {5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # 97.5 % points, blocks - 1 degrees


@dataclass(frozen=True)
class Finding:
    """One sentence, and the figures behind it."""

    sentence: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairSummary:
    """The cosines of one pair of losses at one place."""

    pair: str
    records: int
    mean: float
    low: float
    high: float
    negative: float  # share of the records

    @property
    def conflicts(self) -> bool:
        """Below `CONFLICT`, and more than noise."""
        return self.records >= FEWEST and self.mean < CONFLICT and self.high < 0


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Attributes:
        verdict: "unclear", "none", "mild" or "strong".
        answer: one sentence: do the losses conflict?
        findings: where, when, how much.
        advice: one sentence: is it worth doing something?
        pairs: per pair, the most opposed first.
        layers: layer -> pairs.
        uneven: whether the norms differ by more than a factor `UNEVEN`.

    """

    verdict: Verdict
    answer: str
    findings: tuple[Finding, ...]
    advice: str
    pairs: tuple[PairSummary, ...] = ()
    layers: Mapping[str, tuple[PairSummary, ...]] = field(default_factory=dict)
    uneven: bool = False

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it, in order."""
        return (self.answer, *(finding.sentence for finding in self.findings), self.advice)

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def diagnose(records: Iterable[Mapping[str, Any]]) -> Diagnosis:
    """Read the records of a ConflictRecorder.

    Args:
        records: ``recorder.records``, or `read_records` of its file.

    Returns:
        words with their figures; ``print`` it.

    Raises:
        ValueError: there are no records.

    """
    records = list(records)
    if not records:
        raise ValueError(
            "There are no records to diagnose: attach the ConflictRecorder before training starts."
        )
    names = list(dict.fromkeys(name for record in records for name in record["losses"]))
    if len(names) == 1:
        return Diagnosis(
            "none", f"There is one loss, {names[0]!r}: nothing can conflict.", (), "Nothing to do."
        )
    pairs = _pairs(records)
    norms, uneven = _norms(records, names)
    apart = _separated(records)
    if apart and not pairs:
        answer = (
            "Not measured: the losses come from separate rows of the batch, where their gradients are "
            "orthogonal whatever they do to the encoder."
        )
        return Diagnosis("unclear", answer, (*_of_separated(apart), norms), _MEASURE_ELSEWHERE, uneven=uneven)
    if len(records) < FEWEST:
        answer = (
            f"{len(records)} records are too few to tell (at least {FEWEST}): record longer or more often."
        )
        return Diagnosis("unclear", answer, (norms,), "Nothing to conclude yet.", pairs, uneven=uneven)
    opposed = [pair for pair in pairs if pair.conflicts]
    if len(opposed) <= BY_CHANCE * len(pairs):
        opposed = []
    overruled = _overruled(records, names)
    strong = bool(opposed) and (
        opposed[0].mean < STRONG
        or any(overruled.get(name, 0.0) > OVERRULED for pair in opposed for name in pair.pair.split("|"))
    )
    verdict: Verdict = "strong" if strong else "mild" if opposed else "none"
    layers = _layers(records)
    findings = [
        *_of_pairs(pairs, opposed),
        *_of_overruled(overruled),
        *_of_layers(layers),
        *_of_time(records, opposed),
        *_of_purity(records),
        *_of_separated(apart),
        norms,
        *_of_weights(records, names),
    ]
    return Diagnosis(
        verdict,
        _answer(verdict, opposed, pairs),
        tuple(findings),
        _advice(verdict, uneven),
        pairs,
        layers,
        uneven,
    )


# -- figures ----------------------------------------------------------------------------------------------


def _pairs(records: Sequence[Mapping[str, Any]]) -> tuple[PairSummary, ...]:
    values: dict[str, list[float]] = {}
    for record in records:
        for pair, cosine in record["cosines"].items():
            values.setdefault(pair, []).append(cosine)
    summaries = [_summary(pair, cosines) for pair, cosines in values.items()]
    return tuple(sorted(summaries, key=lambda summary: summary.mean))


def _separated(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Per pair of losses on separate rows of the batch: in what share of the records."""
    counts: dict[str, float] = {}
    for record in records:
        for pair in record.get("separated", ()):
            counts[pair] = counts.get(pair, 0.0) + 1.0 / len(records)
    return counts


def _summary(pair: str, cosines: list[float]) -> PairSummary:
    half = half_interval(cosines)
    mean = float(np.mean(cosines))
    negative = float(np.mean([cosine < 0 for cosine in cosines]))
    return PairSummary(pair, len(cosines), mean, mean - half, mean + half, negative)


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean of values that come one after the other; inf for too few."""
    blocks = min(_BLOCKS, len(values) // 2)
    if blocks < min(_STUDENT):
        return math.inf
    means = [float(np.mean(block)) for block in np.array_split(np.asarray(values), blocks)]
    return _STUDENT[blocks] * float(np.std(means, ddof=1)) / math.sqrt(blocks)


def _overruled(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Per loss: the share of the records in which the plain sum points against its gradient."""
    shares = {}
    for name in names:
        against = [record["with_sum"][name] < 0 for record in records if name in record["with_sum"]]
        shares[name] = float(np.mean(against)) if against else 0.0
    return shares


def _layers(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[PairSummary, ...]]:
    names = list(dict.fromkeys(name for record in records for name in record["layers"]))
    return {
        name: _pairs([record["layers"][name] for record in records if name in record["layers"]])
        for name in names
    }


def _thirds(
    records: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None:
    """The first and the last third of the records; None where they are too short to compare."""
    third = len(records) // 3
    return None if third < FEWEST // 2 else (records[:third], records[-third:])


def negative_share(pairs: Sequence[PairSummary]) -> float:
    """Share of negative cosines over all pairs and records."""
    total = sum(pair.records for pair in pairs)
    return sum(pair.negative * pair.records for pair in pairs) / total if total else 0.0


# -- sentences --------------------------------------------------------------------------------------------


def _answer(verdict: Verdict, opposed: Sequence[PairSummary], pairs: Sequence[PairSummary]) -> str:
    if verdict == "none":
        return "No: the losses do not conflict beyond noise."
    strength = "strongly" if verdict == "strong" else "mildly"
    where = "" if len(pairs) == 1 else f", in {len(opposed)} of {len(pairs)} pairs"
    return f"Yes: the losses conflict {strength}{where}."


def _of_pairs(pairs: Sequence[PairSummary], opposed: Sequence[PairSummary]) -> list[Finding]:
    findings = []
    for summary in opposed[:3] or pairs[:1]:
        measured = (
            f"mean cosine {summary.mean:+.2f} (95 % interval {_interval(summary)}), negative in "
            f"{summary.negative:.0%} of {_count(summary.records, 'record')}"
        )
        if opposed:
            sentence = f"{_spoken(summary.pair)}: {measured}."
        else:
            sentence = f"The least aligned pair is {_spoken(summary.pair)}: {measured}, which is no conflict."
        figures = {
            "mean": summary.mean,
            "low": summary.low,
            "high": summary.high,
            "negative": summary.negative,
        }
        findings.append(Finding(sentence, figures))
    if len(pairs) == 1:
        return findings
    share = negative_share(pairs)
    findings.append(
        Finding(
            f"Over all pairs {share:.0%} of the cosines are negative (random directions: 50 %).",
            {"negative_share": share},
        )
    )
    return findings


_MEASURE_ELSEWHERE = (
    "Measure where the losses meet: pass shared_params= (the encoder, or its last layer) to backward(), or "
    'build MultiLoss(..., measure_at="virtual_layer").'
)


def _of_separated(apart: Mapping[str, float]) -> list[Finding]:
    if not apart:
        return []
    pair = max(apart, key=lambda name: apart[name])
    more = f" and {len(apart) - 1} more pairs" if len(apart) > 1 else ""
    return [
        Finding(
            f"{_spoken(pair)}{more}: separate rows of the batch in {apart[pair]:.0%} of the records, so no "
            f"cosine is taken there. {_MEASURE_ELSEWHERE}",
            dict(apart),
        )
    ]


def _of_overruled(overruled: Mapping[str, float]) -> list[Finding]:
    worst = max(overruled, key=lambda name: overruled[name])
    share = overruled[worst]
    if share == 0:
        return [
            Finding("In no record does the plain sum of the gradients point against a loss.", dict(overruled))
        ]
    return [
        Finding(
            f"The plain sum points against {worst!r} in {share:.0%} of the records"
            + (": a step along it would raise that loss." if share > OVERRULED else "."),
            dict(overruled),
        )
    ]


def _of_layers(layers: Mapping[str, tuple[PairSummary, ...]]) -> list[Finding]:
    if not layers:
        return []
    means = {
        name: sum(pair.mean * pair.records for pair in pairs) / sum(pair.records for pair in pairs)
        for name, pairs in layers.items()
        if pairs
    }
    if not means:
        return []
    first = min(means, key=lambda name: means[name])
    last = max(means, key=lambda name: means[name])
    sentence = (
        f"Layer by layer, the mean cosine is lowest at {first!r} ({means[first]:+.2f}, "
        f"{negative_share(layers[first]):.0%} negative)"
    )
    if last != first:
        sentence += f" and highest at {last!r} ({means[last]:+.2f}, {negative_share(layers[last]):.0%})"
    return [Finding(sentence + ".", means)]


def _of_time(records: Sequence[Mapping[str, Any]], opposed: Sequence[PairSummary]) -> list[Finding]:
    thirds = _thirds(records)
    if thirds is None or not opposed:
        return []
    chosen = {summary.pair for summary in opposed}

    def share(part: Sequence[Mapping[str, Any]]) -> float:
        signs = [c < 0 for record in part for pair, c in record["cosines"].items() if pair in chosen]
        return float(np.mean(signs)) if signs else 0.0

    early, late = map(share, thirds)
    figures = {"first third": early, "last third": late}
    if abs(late - early) < CHANGE:
        return []
    word = "grows" if late > early else "fades"
    return [
        Finding(
            f"Conflict {word}: {early:.0%} of these pairs' cosines are negative in the first third, "
            f"{late:.0%} in the last.",
            figures,
        )
    ]


def _of_purity(records: Sequence[Mapping[str, Any]]) -> list[Finding]:
    known = [record["purity"] for record in records if record["purity"] is not None]
    if not known:
        return []
    mixed = float(np.mean([purity["mixed"] for purity in known]))
    passed = float(np.mean([purity["passed"] for purity in known]))
    return [
        Finding(
            f"Sign by sign: the losses disagree at {mixed:.0%} of the positions, and GradDrop would pass "
            f"{passed:.0%} of the gradient (50 % where they disagree everywhere).",
            {"mixed": mixed, "passed": passed},
        )
    ]


def _norms(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[Finding, bool]:
    shares = {
        name: float(np.mean([r["norm_shares"][name] for r in records if name in r["norm_shares"]]))
        for name in names
    }
    most, least = max(shares, key=lambda n: shares[n]), min(shares, key=lambda n: shares[n])
    ratio = shares[most] / shares[least] if shares[least] > 0 else math.inf
    uneven = ratio > UNEVEN
    times = f"{ratio:.1f} times" if math.isfinite(ratio) else "infinitely"
    word = "uneven" if uneven else "comparable"
    return (
        Finding(
            f"Gradient norms are {word}: {most!r} has {shares[most]:.0%} of their sum, "
            f"{times} as much as {least!r} ({shares[least]:.0%}).",
            shares,
        ),
        uneven,
    )


def _of_weights(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Finding]:
    """A method that evens out norms gives all weight to a loss that has no gradient left."""
    thirds = _thirds(records)
    weighted = all(record.get("numbers") == "weights" for record in records)
    if thirds is None or not weighted:
        return []
    early, late = (_shares_and_norms(part, names) for part in thirds)
    most = max(late, key=lambda name: late[name][0])
    share, norm = late[most]
    share_before, norm_before = early.get(most, (math.inf, 0.0))
    if not (share >= MOST and share > share_before and norm < VANISHED * norm_before):
        return []
    return [
        Finding(
            f"{most!r} seems learned by heart: from the first third to the last its gradient shrinks to "
            f"{norm / norm_before:.2g} of what it was, and its share of the weights grows from "
            f"{share_before:.0%} to {share:.0%}. The other losses hardly train any more: stop earlier, or go "
            "on with a new MultiLoss of the other losses.",
            {"share before": share_before, "share": share, "norm before": norm_before, "norm": norm},
        )
    ]


def _shares_and_norms(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Loss -> its mean share of the weights' sizes, and the mean norm of its gradient."""
    shares: dict[str, list[float]] = {name: [] for name in names}
    norms: dict[str, list[float]] = {name: [] for name in names}
    for record in records:
        total = sum(abs(weight) for weight in record["weights"].values())
        for name, weight in record["weights"].items():
            shares[name].append(abs(weight) / total if total else 0.0)
            norms[name].append(record["norms"][name])
    return {
        name: (float(np.mean(shares[name])), float(np.mean(norms[name]))) for name in names if norms[name]
    }


def _advice(verdict: Verdict, uneven: bool) -> str:
    weights = "weightings that even out norms (gradnorm, uncertainty, static)"
    merging = "methods that merge gradients (pcgrad, mgda, cagrad, graddrop)"
    if verdict == "strong":
        text = f"It is worth trying {merging}" + (f", and {weights}." if uneven else ".")
    elif verdict == "mild":
        text = f"Expect little from {merging}" + (f"; {weights} look more promising." if uneven else ".")
    elif uneven:
        text = f"Conflict is no reason to do anything; uneven norms may be: try {weights}."
    else:
        text = "Nothing here calls for more than the plain sum."
    return (
        f"{text} This says what gradients do, not what metrics will: only a comparison over seeds "
        "(manyloss compare) decides."
    )


def _spoken(pair: str) -> str:
    return " against ".join(repr(name) for name in pair.split("|"))


def _interval(summary: PairSummary) -> str:
    if not math.isfinite(summary.low):
        return "unknown"
    return f"{summary.low:+.2f} to {summary.high:+.2f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
