"""ConflictRecorder: looks at every N-th step of a run and writes down how the losses' gradients relate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyloss import checks, graph, linalg
from manyloss.diagnostics.purity import purity_of
from manyloss.diagnostics.running import WINDOW, pair_name
from manyloss.diagnostics.summary import Diagnosis, diagnose
from manyloss.diagnostics.writers import writer_of
from manyloss.exchange import PresentLosses
from manyloss.gradients import read, row_of, seed_of
from manyloss.scaling import NO_SCALE

if TYPE_CHECKING:
    from manyloss.step import MultiLoss
    from manyloss.strategies import Outcome

Record = dict[str, Any]
Layers = Mapping[str, nn.Module | Iterable[Tensor]]

#: With more pairs than this, a writer gets the mean and the lowest cosine instead of each, and a record the
#: mean and the highest sigma.
MOST_CURVES = 45


class ConflictRecorder:
    """Every N steps: cosines, norms, sign purity at the features, and per layer if asked. ::

        with ConflictRecorder(multi, every=50, path="conflict.jsonl") as recorder:
            train(...)
        print(recorder.diagnose())

    It changes nothing in a step. Steps that a GradScaler skips are not recorded; the next one is instead.

    Args:
        multi: whose steps are looked at, from now on. Its ``backward`` needs ``features`` or
            ``shared_params`` in the steps that are recorded.
        every: N; a step is one call of ``backward``, or one of ``step``.
        layers: name -> module or parameters, to see where conflict arises. It costs one more backward
            through the whole model per loss, and T times the layers' parameters in memory, every N steps.
            Not scaled by a GradScaler: with float16, small gradients of layers may vanish.
        path: of a file of JSON lines, appended to.
        writer: TensorBoard's SummaryWriter, a run of W&B, ``mlflow``, a logger of Lightning, or a function
            of (numbers by tag, step).
        tag: prefix of what the writer gets.
        step: gives the trainer's step (``lambda: trainer.global_step``), so that records lie beside what the
            trainer logs, and micro-batches count once.

    Attributes:
        records: one dict per recorded step, as in the file: ``losses``, ``weights`` (``numbers`` says whether
            they are "projection coefficients"), ``norms`` and how the gradients relate. ``cosines`` are keyed
            "a|b" and hold only pairs of which both gradients are not zero; ``separated`` are pairs of losses
            on separate rows of the features, whose cosine there would be no evidence; ``with_sum`` is the
            cosine of each gradient with the plain sum of all: below 0, a step along the sum raises that loss.
            ``sigma`` is the standard deviation of the cosines over the last 50 records; with more than 45
            pairs, its mean and its highest over the pairs.

    Raises:
        ValueError: N below 1, or a layer without parameters that require grad.

    """

    def __init__(
        self,
        multi: MultiLoss,
        every: int = 50,
        layers: Layers | None = None,
        *,
        path: str | Path | None = None,
        writer: Any = None,
        tag: str = "manyloss",
        step: Callable[[], int] | None = None,
    ) -> None:
        checks.whole("every", every, 1)
        if layers is not None and not isinstance(layers, Mapping):
            raise TypeError(
                f"layers must be a mapping from names to modules or parameters, got {type(layers).__name__}."
            )
        if step is not None:
            checks.function("step", step, "lambda: trainer.global_step")
        self.multi = multi
        self.every = every
        self.layers = {name: _parameters(name, layer) for name, layer in (layers or {}).items()}
        self.path = None if path is None else Path(path)
        self.writer = None if writer is None else writer_of(writer)
        self.tag = tag
        self.records: list[Record] = []
        self.step = 0
        self._step_of_trainer = step
        self._next: int | None = None
        self._pairs: tuple[str, ...] = ()
        self._recent = np.empty((0, 0))
        self._layer_rows: dict[str, Tensor] = {}
        multi.observers.append(self)

    def __enter__(self) -> ConflictRecorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Stop looking; the records stay."""
        if self in self.multi.observers:
            self.multi.observers.remove(self)

    def diagnose(self) -> Diagnosis:
        """What the records say, in words."""
        return diagnose(self.records)

    # ------------------------------------------------------------------ called by MultiLoss

    def due(self) -> bool:
        """Whether the step that begins is to be recorded: the 1st, the (N + 1)th, ..."""
        self.step = self.step + 1 if self._step_of_trainer is None else int(self._step_of_trainer())
        self._layer_rows = {}
        return self._next is None or self.step >= self._next

    def before(self, losses: PresentLosses) -> None:
        """Read the layers while the graph is alive: one pass per loss."""
        if not self.layers:
            return
        params = [param for layer in self.layers.values() for param in layer]
        rows: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        for name, root in zip(losses.names, losses.roots, strict=True):
            grads: Sequence[Tensor | None] = [None] * len(params)
            if root is not None:
                with graph.reads_only([root], params):
                    grads = read([root], name, params, [seed_of(root, params[0].device)])
            flat = iter([row_of(g, p, NO_SCALE).flatten() for g, p in zip(grads, params, strict=True)])
            for layer, of_layer in self.layers.items():
                rows[layer].append(torch.cat([next(flat) for _ in of_layer]))
        self._layer_rows = {name: torch.stack(of_loss) for name, of_loss in rows.items()}

    def record(self, outcome: Outcome, features: Sequence[Tensor]) -> None:
        """Write down what this step shows."""
        self._next = self.step + self.every
        measured, gradients = outcome.measured, outcome.gradients
        assert measured is not None
        assert gradients is not None
        names, ranks = measured.names, measured.ranks
        record: Record = {
            "step": self.step,
            "place": measured.place,
            "losses": _named(names, measured.values),
            "weights": _named(names, outcome.weights),
            "numbers": self.multi.weighting.numbers,
            **_relations(names, measured.gramian, outcome.separated),
        }
        record["sigma"] = self._sigma(record["cosines"])
        at_features = gradients.place == "features"
        purity = purity_of(gradients.tensors, features if at_features else None, ranks)
        record["purity"] = None if purity is None else {**vars(purity), "histogram": list(purity.histogram)}
        record["layers"] = {
            name: _relations(names, linalg.gramian([ranks.mean(rows)]))
            for name, rows in self._layer_rows.items()
        }
        self._layer_rows = {}
        self.records.append(record)
        if ranks.rank == 0:
            self._write(record)

    def _sigma(self, cosines: Mapping[str, float]) -> dict[str, float]:
        """Standard deviation of these pairs over the last records; a pair seen once has none."""
        pairs = tuple(cosines)
        if pairs != self._pairs:  # other losses are present than in the last record
            self._pairs = pairs
            old = [record["cosines"] for record in self.records[1 - WINDOW :]]
            self._recent = np.array([[seen.get(pair, np.nan) for pair in pairs] for seen in old])
            self._recent = self._recent.reshape(len(old), len(pairs))
        newest = np.fromiter(cosines.values(), np.float64, len(pairs))
        self._recent = np.concatenate([self._recent[1 - WINDOW :], newest[None]])  # [at most WINDOW, pairs]
        if np.isfinite(self._recent.sum()):
            return {} if len(self._recent) == 1 else _told(pairs, self._recent.std(0, ddof=1))
        known = np.isfinite(self._recent)
        counts = known.sum(0)
        means = np.where(known, self._recent, 0.0).sum(0) / np.maximum(counts, 1)
        squares = np.where(known, self._recent - means, 0.0) ** 2
        deviations = np.sqrt(squares.sum(0) / np.maximum(counts - 1, 1))
        seen = np.flatnonzero(counts > 1)
        return _told([pairs[k] for k in seen], deviations[seen])

    # ------------------------------------------------------------------ output

    def _write(self, record: Record) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if self.writer is not None:
            self.writer({f"{self.tag}/{name}": n for name, n in _scalars(record).items()}, record["step"])


def read_records(path: str | Path) -> list[Record]:
    """The records of a file that a ConflictRecorder wrote."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _parameters(name: str, layer: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    tensors = list(layer.parameters()) if isinstance(layer, nn.Module) else list(layer)
    found = [tensor for tensor in tensors if tensor.requires_grad]
    if not found:
        raise ValueError(
            f"layers: {name!r} has no parameters that require grad, so no gradient can be read there: "
            "name a module that has, or leave it out."
        )
    return found


def _named(names: Sequence[str], values: Tensor | Sequence[float]) -> dict[str, float]:
    return dict(zip(names, values.tolist() if isinstance(values, Tensor) else values, strict=True))


def _told(pairs: Sequence[str], sigma: NDArray[np.float64]) -> dict[str, float]:
    """By pair, as long as these can be read one by one."""
    if len(pairs) > MOST_CURVES:
        return {"mean": float(sigma.mean()), "highest": float(sigma.max())}
    return dict(zip(pairs, sigma.tolist(), strict=True))


@lru_cache(maxsize=16)
def _pairs_of(names: tuple[str, ...]) -> tuple[list[str], NDArray[np.intp], NDArray[np.intp]]:
    """The names of the T (T - 1) / 2 pairs, and where they lie in a Gramian."""
    first, second = np.triu_indices(len(names), 1)
    labels = [pair_name(names[i], names[j]) for i, j in zip(first, second, strict=True)]
    return labels, first, second


def _relations(names: Sequence[str], gramian: Tensor, separated: Tensor | None = None) -> Record:
    """Norms, cosines and what follows from them, of T gradients' Gramian [T, T].

    Pairs of losses on separate rows of the batch have no cosine: it would be 0 whatever they do.
    """
    norms = gramian.diagonal().clamp(min=0.0).sqrt()
    labels, first, second = _pairs_of(tuple(names))
    cosines = linalg.cosines(gramian).numpy()[first, second]
    alive = (norms > 0).numpy()
    apart = np.zeros(len(first), bool) if separated is None else separated.cpu().numpy()[first, second]
    shown = alive[first] & alive[second] & ~apart
    pairs = dict(zip(labels, cosines.tolist(), strict=True))
    if not shown.all():
        pairs = {label: pairs[label] for label, there in zip(labels, shown, strict=True) if there}
    total = norms.sum()
    sum_norm = gramian.sum().clamp(min=0.0).sqrt()
    scale = norms * sum_norm
    against = torch.where(scale > 0, gramian.sum(1) / scale.clamp(min=1e-300), torch.zeros_like(scale))
    return {
        "norms": _named(names, norms),
        "norm_shares": _named(names, norms / total) if total > 0 else dict.fromkeys(names, 0.0),
        "cosines": pairs,
        "separated": [labels[k] for k in np.flatnonzero(apart)],
        "negative_share": float((cosines[shown] < 0).mean()) if pairs else None,
        "with_sum": _named(names, against.clamp(-1.0, 1.0)),
    }


def _scalars(record: Record) -> dict[str, float]:
    weight = record["numbers"].removesuffix("s")  # "weight", "projection coefficient"
    kinds = {"loss": "losses", weight: "weights", "norm": "norms"}
    scalars = {f"{kind}/{name}": n for kind, key in kinds.items() for name, n in record[key].items()}
    scalars |= {f"norm_share/{name}": share for name, share in record["norm_shares"].items()}
    scalars |= {f"with_sum/{name}": cosine for name, cosine in record["with_sum"].items()}
    scalars |= _cosine_scalars(record, "")
    scalars |= {f"sigma/{pair}": value for pair, value in record["sigma"].items()}
    if record["purity"] is not None:
        scalars["purity/mixed"] = record["purity"]["mixed"]
        scalars["purity/passed"] = record["purity"]["passed"]
    for name, layer in record["layers"].items():
        scalars |= _cosine_scalars(layer, f"layers/{name}/")
    return scalars


def _cosine_scalars(record: Record, prefix: str) -> dict[str, float]:
    cosines = record["cosines"]
    if not cosines:
        return {}
    if len(cosines) <= MOST_CURVES:
        scalars = {f"{prefix}cosine/{pair}": cosine for pair, cosine in cosines.items()}
    else:
        scalars = {
            f"{prefix}cosine mean": sum(cosines.values()) / len(cosines),
            f"{prefix}cosine lowest": min(cosines.values()),
        }
    scalars[f"{prefix}negative_share"] = record["negative_share"]
    return scalars
