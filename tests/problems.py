"""Tiny problems that every method is tried on: an encoder, heads, losses, and where the features are.

`Given` sets the per-loss gradients exactly; the networks are for everything that needs real layers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def names(count: int) -> list[str]:
    return [f"loss_{i}" for i in range(count)]


class Given:
    """Losses whose gradients at the features (or at the shared parameters) are the rows one asks for.

    loss_i = <rows[i], features> + offset: `point.grad` is the merged gradient after a step.
    """

    def __init__(self, rows: Tensor, point: Tensor | None = None, offset: float = 1.0):
        self.rows = rows
        start = torch.ones_like(rows[0]) if point is None else point
        self.point = start.detach().to(rows.dtype).clone().requires_grad_(True)
        self.offset = offset

    def losses(self, place: Tensor) -> dict[str, Tensor]:
        base = [(row * place).sum() for row in self.rows]
        return {
            name: value - value.detach() + self.offset
            for name, value in zip(names(len(self.rows)), base, strict=True)
        }

    def at_features(self, multi: nn.Module, **keywords: object) -> tuple[Tensor, object]:
        self.point.grad = None
        features = self.point * 1.0
        result = multi.backward(self.losses(features), features=features, **keywords)
        return self.point.grad, result

    def at_shared_params(self, multi: nn.Module, **keywords: object) -> tuple[Tensor, object]:
        self.point.grad = None
        result = multi.backward(self.losses(self.point), shared_params=[self.point], **keywords)
        return self.point.grad, result


class Network:
    """encoder -> features -> one head per loss -> losses. Subclasses say what the parts are.

    `new_batch(step)` draws the data of a step from its number alone.
    """

    batch = 6

    def __init__(self, count: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0):
        self.count, self.dtype = count, dtype
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.encoder, self.heads = self.build()
        torch.random.set_rng_state(state)
        self.encoder.to(dtype)
        self.heads.to(dtype)

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5))
        return encoder, nn.ModuleList(nn.Linear(5, 1) for _ in range(self.count))

    def inputs(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + step)
        return torch.randn(self.batch, 4, generator=generator, dtype=torch.float64).to(self.dtype)

    def target(self, i: int) -> float:
        return 0.5 * (-1.0) ** i * (1 + i % 5)

    def encode(self, inputs: Tensor) -> list[Tensor]:
        return [self.encoder(inputs)]

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        return [head(features[0]) for head in self.heads]

    def forward(self, step: int = 0) -> tuple[list[Tensor], dict[str, Tensor]]:
        features = self.encode(self.inputs(step))
        outputs = self.outputs(features)
        losses = [(output - self.target(i)).square().mean() + 0.1 for i, output in enumerate(outputs)]
        return features, dict(zip(names(self.count), losses, strict=True))

    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.heads.parameters()]

    def last_layer(self) -> list[nn.Parameter]:
        """The parameters of the encoder's last layer (GradNorm's W)."""
        modules = [module for module in self.encoder.modules() if any(True for _ in module.parameters(False))]
        return list(modules[-1].parameters(False))

    def gradients(self) -> list[Tensor | None]:
        return [None if param.grad is None else param.grad.clone() for param in self.parameters()]

    def zero_grad(self) -> None:
        for param in self.parameters():
            param.grad = None


class Maps(Network):
    """Features [B, C, H, W] from convolutions and a batch norm."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 2))
        heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2, 1, 2), nn.Tanh(), nn.Flatten()) for _ in range(self.count)
        )
        return encoder, heads

    def inputs(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + step)
        return torch.randn(self.batch, 1, 6, 6, generator=generator, dtype=torch.float64).to(self.dtype)


class Separated(Network):
    """Every loss sees its own part of the batch (transfer learning)."""

    def __init__(self, count: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0):
        self.batch = 2 * count
        super().__init__(count, dtype, seed)

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        return [head(features[0][2 * i : 2 * i + 2]) for i, head in enumerate(self.heads)]


class Neck(Network):
    """A layer after the features that all losses share: one backward cannot tell them apart."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder, heads = super().build()
        heads.append(nn.Linear(5, 5))
        return encoder, heads

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        neck = torch.tanh(self.heads[-1](features[0]))
        return [head(neck) for head in self.heads[:-1]]


class OneHead(Network):
    """One head whose output columns are the losses."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder, _ = super().build()
        return encoder, nn.ModuleList([nn.Linear(5, self.count)])

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        return list(self.heads[0](features[0]).unbind(dim=1))


class Pyramid(Network):
    """Two feature tensors of different shape, none of which depends on the other."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 3)])
        return encoder, nn.ModuleList(nn.Linear(8 if i % 2 == 0 else 5, 1) for i in range(self.count))

    def last_layer(self) -> list[nn.Parameter]:
        """The trunk: the last layer that every loss depends on."""
        return list(self.encoder[0].parameters())

    def encode(self, inputs: Tensor) -> list[Tensor]:
        trunk = torch.tanh(self.encoder[0](inputs))
        return [self.encoder[1](trunk), self.encoder[2](trunk)]

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        both = [torch.cat(features, dim=1) if i % 2 == 0 else features[0] for i in range(self.count)]
        return [head(seen) for head, seen in zip(self.heads, both, strict=True)]


class Recurrent(Network):
    """Features [B, L, H] from a GRU."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        return nn.GRU(3, 4, batch_first=True), nn.ModuleList(nn.Linear(4, 1) for _ in range(self.count))

    def inputs(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + step)
        return torch.randn(4, 3, 3, generator=generator, dtype=torch.float64).to(self.dtype)

    def encode(self, inputs: Tensor) -> list[Tensor]:
        return [self.encoder(inputs)[0]]


class Wrapped(Network):
    """The plain network with its encoder and heads called through `wrap(module, input)`."""

    def __init__(self, wrap_encoder: Callable, wrap_head: Callable, count: int = 3, **keywords: object):
        self.wrap_encoder, self.wrap_head = wrap_encoder, wrap_head
        super().__init__(count, **keywords)

    def encode(self, inputs: Tensor) -> list[Tensor]:
        return [self.wrap_encoder(self.encoder, inputs)]

    def outputs(self, features: list[Tensor]) -> list[Tensor]:
        return [self.wrap_head(head, features[0]) for head in self.heads]


LAYOUTS = [Network, Maps, Separated, Neck, OneHead, Pyramid, Recurrent]


def assert_same(
    actual: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    rtol: float = 1e-7,
    atol: float = 1e-10,
) -> None:
    """Two lists of gradients are close; None only meets None or zeros."""
    assert len(actual) == len(expected)
    for first, second in zip(actual, expected, strict=True):
        if first is None or second is None:
            other = second if first is None else first
            assert other is None or not bool(other.any())
            continue
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=rtol, atol=atol)


def assert_identical(actual: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """Bit for bit."""
    for first, second in zip(actual, expected, strict=True):
        assert (first is None) == (second is None)
        if first is not None:
            assert torch.equal(first, second)
