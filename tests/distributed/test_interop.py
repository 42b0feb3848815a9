"""TorchJD's methods and the ConflictRecorder on two ranks see what one process sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.aggregation import Aggregator
from manyloss.diagnostics import ConflictRecorder
from manyloss.interop import from_torchjd
from tests.distributed.processes import Place, Run, differences, on_ranks
from tests.distributed.training import STEPS, batch, new_model, where, wrapped

torchjd = pytest.importorskip("torchjd.aggregation")

METHODS: dict[str, Callable[[], Any]] = {
    "AlignedMTL": torchjd.AlignedMTL,
    "ConFIG": torchjd.ConFIG,
    "GradVac": torchjd.GradVac,
    "PCGrad": torchjd.PCGrad,
    "TrimmedMean": lambda: torchjd.TrimmedMean(trim_number=1),
    "GradDrop": torchjd.GradDrop,
}
OF_MATRICES = ("TrimmedMean", "GradDrop")


def foreign(place: Place, name: str, at: str) -> list[Tensor]:
    method = from_torchjd(METHODS[name](), seed=7 + place.rank)
    multi = MultiLoss(aggregator=method) if isinstance(method, Aggregator) else MultiLoss(weighting=method)
    model = new_model()
    forward = wrapped(model, "whole", place)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        features, losses = forward(place.part(inputs), place.part(targets))
        multi.backward(losses, **where(model, features, at))
        optimizer.step()
    return list(model.parameters())


def recorded(place: Place, **ddp: Any) -> list[Tensor]:
    """Every figure of two records, the layers included, and the parameters that training left."""
    multi, model = MultiLoss(), new_model()
    forward = wrapped(model, "whole", place, **ddp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with ConflictRecorder(multi, every=2, layers={"first": model.encoder[0]}) as recorder:
        for step in range(3):
            inputs, targets = batch(step)
            optimizer.zero_grad()
            features, losses = forward(place.part(inputs), place.part(targets))
            multi.backward(losses, features=features)
            optimizer.step()
    assert len(recorder.records) == 2
    return [*(torch.tensor(numbers(r), dtype=torch.float64) for r in recorder.records), *model.parameters()]


def numbers(record: Any) -> list[float]:
    if isinstance(record, dict):
        return [number for value in record.values() for number in numbers(value)]
    if isinstance(record, list):
        return [number for value in record for number in numbers(value)]
    return [] if record is None or isinstance(record, str) else [float(record)]


def refused(place: Place) -> list[Tensor]:
    if place.world > 1:
        with pytest.raises(ValueError, match="TrimmedMean reads the whole matrix of gradients"):
            foreign(place, "TrimmedMean", "features")
    return [torch.zeros(1)]


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    runs = [
        Run(f"{name} at {at}", foreign, {"name": name, "at": at})
        for name in METHODS
        for at in ("features", "params")
        if at == "params" or name not in OF_MATRICES
    ]
    runs.append(Run("recorder", recorded))
    runs.append(Run("recorder, static graph", recorded, {"static_graph": True}))
    runs.append(Run("refused", refused))
    assert not (wrong := differences(runs, on_ranks(runs, 2, tmp_path), atol=1e-9)), "\n".join(wrong)
