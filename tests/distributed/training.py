"""A small training that runs on one rank or on many, with the methods and wrappings to try it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from manyloss import MultiLoss
from manyloss.adversarial import GradientAlignment
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, GradNorm, InitialLoss, Uncertainty
from tests.distributed.processes import Place
from tests.properties.methods import CASES

LOSSES = ("a", "b", "c")
BATCH = 12
STEPS = 3


def classifier(seed: int) -> nn.Module:
    """Without the batch norm of the default one, whose statistics are, as under DDP, those of the rank."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(0.2), nn.Linear(8, len(LOSSES))).double()


# Every public method joins by existing; the rest are settings and compositions. The argument is a seed.
METHODS: dict[str, Callable[[int], MultiLoss]] = {
    "GradDrop per example": lambda seed: MultiLoss(aggregator=GradDrop(sum_over_batch=False, seed=seed)),
    "GradDrop renormalize, leak": lambda seed: MultiLoss(
        aggregator=GradDrop(leak=[0.0, 0.3, 1.0], renormalize=True, seed=seed)
    ),
    "GradientAlignment": lambda seed: MultiLoss(InitialLoss(), GradientAlignment(classifier(seed))),
    "MGDA rescaled": lambda seed: MultiLoss(MGDA(), rescale="sum_norm"),
    "MGDA loss+": lambda seed: MultiLoss(MGDA(normalize="loss+")),
    "CosReg scale_by_loss": lambda seed: MultiLoss(penalties=[CosReg(scale_by_loss=True)]),
    "GradNorm, GradDrop": lambda seed: MultiLoss(GradNorm(), GradDrop(seed=seed)),
    "Uncertainty, GradDrop, CosReg": lambda seed: MultiLoss(
        Uncertainty(), GradDrop(seed=seed), [CosReg(0.3)]
    ),
    "MGDA, both penalties": lambda seed: MultiLoss(MGDA(), penalties=[CosReg(0.3), GradientPenalty(0.1)]),
}


def make(method: str, place: Place, **keywords: Any) -> MultiLoss:
    """A MultiLoss by the name of its method; each rank passes another seed, rank 0 that of one process."""
    if method in METHODS:
        multi = METHODS[method](7 + place.rank)
        multi.settings.read = keywords.get("read", multi.settings.read)
        return multi
    case = next(case for case in CASES if case.name == method)
    settings = case.arguments(len(LOSSES), seed=7 + place.rank)
    if method == "Static":
        settings = {"weights": [1.0, 1.25, 1.5]}
    return case.wrap(case.cls(**settings), **keywords)


def penalises(method: str) -> bool:
    return method in {"CosReg scale_by_loss", "Uncertainty, GradDrop, CosReg", "MGDA, both penalties"} or any(
        case.name == method and case.family == "penalties" for case in CASES
    )


def measures_at_params(method: str) -> bool:
    """With features and shared parameters given, these measure at the latter."""
    return method in METHODS or any(case.name == method and case.measures_at_shared_params for case in CASES)


class Model(nn.Module):
    """encoder -> features -> (a neck that the losses share ->) heads -> losses."""

    def __init__(self, shared_neck: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5))
        self.heads = Heads(shared_neck)
        self.inside = False

    def forward(self, inputs: Tensor, targets: Tensor, wanted: tuple[str, ...] = LOSSES) -> Any:
        features = self.encoder(inputs)
        outputs = self.heads(features, wanted)
        return features, losses_of(outputs, targets) if self.inside else outputs


class Heads(nn.Module):
    """One head per loss; only those that are wanted run."""

    def __init__(self, shared_neck: bool) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Linear(5, 5), nn.Tanh()) if shared_neck else nn.Identity()
        self.each = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)) for name in LOSSES}
        )

    def forward(self, features: Tensor, wanted: tuple[str, ...] = LOSSES) -> dict[str, Tensor]:
        seen = self.neck(features)
        return {name: self.each[name](seen) for name in wanted}


def new_model(shared_neck: bool = False) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(shared_neck).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(BATCH, len(LOSSES), generator=generator, dtype=torch.float64)


def losses_of(outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    return {
        name: (1 + i) * (output[:, 0] - (-1.0) ** i * targets[:, i]).square().mean() + 0.1
        for i, name in enumerate(LOSSES)
        if (output := outputs.get(name)) is not None
    }


Forward = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def wrapped(model: Model, form: str, place: Place, **ddp: Any) -> Forward:
    """The forward that gives features and losses, with DDP around the whole or around the parts.

    Args:
        model: what is trained.
        form: "whole": one DDP, losses outside; "inside": one DDP, losses inside; "parts": a DDP for the
            encoder and one for the heads.
        place: alone, nothing is wrapped.
        ddp: settings of DistributedDataParallel.

    """

    def wrap(module: nn.Module) -> nn.Module:
        return module if place.world == 1 else DistributedDataParallel(module, **ddp)

    model.inside = form == "inside"
    if form == "parts":
        encoder, heads = wrap(model.encoder), wrap(model.heads)

        def forward(inputs: Tensor, targets: Tensor, wanted: tuple[str, ...] = LOSSES) -> Any:
            features = encoder(inputs)
            return features, losses_of(heads(features, wanted), targets)

        return forward
    whole = wrap(model)

    def forward(inputs: Tensor, targets: Tensor, wanted: tuple[str, ...] = LOSSES) -> Any:
        features, outputs = whole(inputs, targets, wanted)
        return features, outputs if form == "inside" else losses_of(outputs, targets)

    return forward


SHARDED: dict[str, Callable[[Model], list[nn.Module]]] = {
    "root": lambda model: [model],
    "encoder, heads, root": lambda model: [model.encoder, model.heads, model],
    "encoder's layers, root": lambda model: [model.encoder[0], model.encoder[2], model],
    "each head, root": lambda model: [*model.heads.each.values(), model],
    "all parts, root": lambda model: [
        model.encoder[0],
        model.encoder[2],
        model.encoder,
        *model.heads.each.values(),
        model.heads,
        model,
    ],
}


def sharded(model: Model, parts: str, place: Place) -> Forward:
    """The forward with FSDP2 around some of the parts, inner ones first."""
    if place.world > 1:
        mesh = init_device_mesh("cpu", (place.world,))
        for module in SHARDED[parts](model):
            fully_shard(module, mesh=mesh)

    def forward(inputs: Tensor, targets: Tensor, wanted: tuple[str, ...] = LOSSES) -> Any:
        features, outputs = model(inputs, targets, wanted)
        return features, losses_of(outputs, targets)

    return forward


def where(model: Model, features: Tensor, at: str) -> dict[str, Any]:
    """The keywords of ``backward``: "features", "params" or "both" (W is the encoder's last layer)."""
    last = list(model.encoder[2].parameters())
    return {
        "features": {"features": features},
        "params": {"shared_params": last},
        "both": {"features": features, "shared_params": last},
    }[at]


def train(
    place: Place,
    method: str,
    form: str = "whole",
    at: str = "features",
    read: str = "auto",
    shared_neck: bool = False,
    **ddp: Any,
) -> list[Tensor]:
    """Parameters after some steps, and what was measured in the last one."""
    model = new_model(shared_neck)
    forward = sharded(model, form, place) if form in SHARDED else wrapped(model, form, place, **ddp)
    multi = make(method, place, read=read)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    resharded = [part for part in model.modules() if isinstance(part, FSDPModule) and multi.penalties]
    for part in resharded:  # the double backward needs what the first pass used
        part.set_reshard_after_backward(False)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = batch(step)
        features, losses = forward(place.part(inputs), place.part(targets))
        result = multi.backward(losses, **where(model, features, at), measure=step == STEPS - 1)
        for part in resharded:
            part.reshard()
        optimizer.step()
    measured = [*result.losses.values(), *result.weights.values(), result.gramian, *result.norms.values()]
    parameters = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return [*parameters, *measured]
