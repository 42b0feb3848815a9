"""Every error text of the adversarial and robustness packages: what was received, and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LOGIT_TOLERANCE = 1e-4

# autograd nodes without a double backward, and what to do about each
NO_DOUBLE_BACKWARD = {
    "CompiledFunctionBackward": "a compiled module; pass the model from before torch.compile (a compiled "
    "model keeps it as `model._orig_mod`)",
    "CudnnRnnBackward": "a cuDNN RNN; run the forward under torch.backends.cudnn.flags(enabled=False)",
    "ScaledDotProduct": "fused attention; run the step under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "CheckpointFunctionBackward": "a reentrant checkpoint; pass use_reentrant=False to checkpoint()",
}


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """`value` is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; received {value!r}.")


def at_least(name: str, value: float, minimum: float) -> None:
    """`value` is a number that is not below `minimum`."""
    if not value >= minimum:
        raise ValueError(f"{name} must be at least {minimum}; received {value}.")


def within(name: str, value: float, low: float, high: float) -> None:
    """`value` is a number in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}]; received {value}.")


def above(name: str, value: float, minimum: float) -> None:
    """`value` is a number greater than `minimum`."""
    if not value > minimum:
        raise ValueError(f"{name} must be greater than {minimum:g}; received {value}.")


def same_classes(student: Tensor, teacher: Tensor) -> None:
    """Soft targets need one class list."""
    if student.shape != teacher.shape:
        raise ValueError(
            "Soft targets need student and teacher with the same classes; received logits "
            f"{list(student.shape)} and "
            f"{list(teacher.shape)}."
        )


def fraction(value: float) -> None:
    """Progress of the training lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"set_progress takes epoch / epochs, a number in [0, 1]; received {value}.")


def images(x: Tensor, input_range: tuple[float, float] | None) -> None:
    """The inputs are floating point, finite and inside the range that eps is measured in."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.shape[0] == 0:
        received = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"x must be a floating point tensor [B, ...] with at least one example; received {received}. "
            "Convert bytes with x.float() / 255."
        )
    low, high = (value.item() for value in x.detach().aminmax())
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError("x holds NaN or infinite values; remove these examples first.")
    if input_range is not None and (low < input_range[0] or high > input_range[1]):
        raise ValueError(
            f"x must lie in [{input_range[0]:g}, {input_range[1]:g}], because eps and the gradients are in "
            "pixel units; "
            f"received values from {low:g} to {high:g}. Move the normalisation into the model, as its first "
            "layer."
        )


def labels_of(x: Tensor, y: Tensor) -> None:
    """The labels are one integer per example."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        received = f"{y.dtype} {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"y must hold one class number per example, int64 [{x.shape[0]}]; received {received}."
        )
    if y.device != x.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}; move both to one device.")


def labels_in_range(y: Tensor, classes: int, name: str = "y") -> None:
    """Every label names one of the outputs."""
    low, high = (int(value.item()) for value in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name} must hold class numbers from 0 to {classes - 1}, one per output of the model; "
            f"received {low} to {high}."
        )


def logits(outputs: object, batch: int, who: str = "the model") -> Tensor:
    """The outputs are [B, C] numbers before the softmax."""
    if (
        not isinstance(outputs, Tensor)
        or outputs.dim() != 2
        or outputs.shape[0] != batch
        or outputs.shape[1] < 2
    ):
        received = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"{who} must return logits of shape [{batch}, C] with C >= 2; received {received}.")
    with torch.no_grad():
        values = outputs.detach().float()
        row_sums = values.sum(1)
        if bool(((values >= 0).all() & ((row_sums - 1).abs() < LOGIT_TOLERANCE).all()).item()):
            raise ValueError(
                f"{who} must return logits; received probabilities (no value below 0, every row sums to 1). "
                "Leave out the softmax."
            )
        for sign, what in ((1, "log-probabilities"), (-1, "negative log-probabilities")):
            if bool(((sign * values).logsumexp(1).abs() < LOGIT_TOLERANCE).all().item()):
                raise ValueError(
                    f"{who} must return logits; received {what} (every row's probabilities sum to 1). "
                    "Leave out the log-softmax."
                )
    return outputs


def reaches_input(outputs: Tensor, who: str = "the model") -> None:
    """There is a graph from the outputs back to the input."""
    if not outputs.requires_grad:
        raise ValueError(
            f"The outputs of {who} do not depend on the input through a graph; remove detach(), no_grad() or "
            "inference_mode() from its forward."
        )


def input_gradient(gradient: Tensor | None, who: str = "the model") -> Tensor:
    """The input was reached."""
    if gradient is None:
        raise ValueError(
            f"The outputs of {who} do not depend on the input; its gradient cannot be read. "
            "Look for detach() or a conversion of the input to another type in its forward."
        )
    return gradient


def double_backward(outputs: Tensor, who: str = "the model") -> None:
    """No node between the outputs and the leaves lacks a double backward."""
    seen: set[object] = set()
    waiting: list[object] = [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = type(node).__name__
        for start, way_out in NO_DOUBLE_BACKWARD.items():
            if kind.startswith(start):
                raise ValueError(f"This method differentiates {who} twice, which fails through {way_out}.")
        waiting.extend(parent for parent, _ in getattr(node, "next_functions", ()))


def scalar_loss(value: object) -> Tensor:
    """`loss` returned one number."""
    if not isinstance(value, Tensor) or value.dim() != 0:
        received = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return one number, the mean over the batch; received {received}.")
    return value


def auxiliary_outputs(outputs: object, shape: Sequence[int], who: str) -> Tensor:
    """The network that reads gradients returns what it is trained for."""
    if not isinstance(outputs, Tensor) or list(outputs.shape) != list(shape):
        received = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"{who} must return shape {list(shape)}; received {received}. Change its last layer."
        )
    return outputs


def auxiliary_failed(who: str, shape: Sequence[int], error: Exception) -> ValueError:
    """The network that reads gradients could not read this shape."""
    return ValueError(
        f"{who} cannot read gradients of shape {list(shape)}, the shape of what they belong to: {error} "
        "Give it the input size of the model whose gradients it reads."
    )


class NotFiniteError(ValueError):
    """A step met NaN or infinity."""


def not_finite(what: str) -> NotFiniteError:
    """NaN or infinity was read, and there is no GradScaler to skip the step."""
    return NotFiniteError(
        f"{what} holds NaN or infinite values; nothing was written. Lower the learning rate, or pass "
        "grad_scaler= "
        "when training in float16."
    )


def no_relu(model: nn.Module) -> ValueError:
    """Nothing to replace by LeakyReLU."""
    return ValueError(
        f"{type(model).__name__} holds no nn.ReLU module that could become a LeakyReLU; write functional "
        "relu() calls "
        "as modules, or build the auxiliary network yourself."
    )


def alignment_place(features: Tensor | None) -> Tensor:
    """GradientAlignment works at features only."""
    if features is None:
        raise ValueError(
            "GradientAlignment scales per-loss gradients at the features; received gradients at shared "
            "parameters. "
            "Pass features= to backward()."
        )
    return features


def alignment_shape(received: Sequence[int], known: Sequence[int]) -> None:
    """The losses and the shape of the features are those of the first step."""
    if list(received) != list(known):
        raise ValueError(
            f"GradientAlignment holds one number per loss and feature, {list(known)}; received gradients for "
            f"{list(received)}. The number of losses and the shape of the features are fixed by the first "
            "step."
        )


def alignment_places(received: int, known: int) -> None:
    """The number of feature tensors is that of the first step."""
    if received != known:
        raise ValueError(
            f"GradientAlignment started with {known} feature tensors; received {received}. Their number is "
            "fixed by the "
            "first step."
        )


def alignment_classifier(given: bool, places: int) -> None:
    """One classifier reads one features tensor."""
    if given and places > 1:
        raise ValueError(
            f"GradientAlignment got one classifier for {places} feature tensors; leave classifier=None (each "
            "then gets "
            "its own), or pass one tensor."
        )


def eps(value: float) -> None:
    """The size of a perturbation is in pixel units."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"eps is in [0, 1] pixel units; received {value:g}. Divide by 255: eps={value / 255:.4g} is "
            f"{value:g}/255."
        )


def enough_classes(classes: int, needed: int) -> None:
    """DLR sorts the logits and divides by a gap between them."""
    if classes < needed:
        raise ValueError(
            f"The DLR loss needs at least {needed} classes; received {classes}. Use loss='margin'."
        )


def target_differs(targets: Tensor, y: Tensor) -> None:
    """A target is a wrong class."""
    if bool((targets == y).any().item()):
        raise ValueError(
            "targets holds true labels; a targeted attack needs a wrong class for every example."
        )


def draws_random_numbers() -> ValueError:
    """Two runs of the model differ."""
    return ValueError(
        "The model draws random numbers at inference, so one evaluation of it means little, and gradients of "
        "single draws "
        "hide its weakness. Pass repeats= (10, say): every attack then follows the mean gradient of that "
        "many draws, "
        "and an example counts as correct when the mean of the logits over them is."
    )


def no_examples() -> ValueError:
    """The data were empty."""
    return ValueError("data holds no examples; evaluate() needs at least one batch (x, y).")


def batch_of_two(batch: object) -> tuple[Tensor, Tensor]:
    """A batch is a pair of inputs and labels."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"data must yield pairs (x, y) of tensors; received {type(batch).__name__}.")
    return batch[0], batch[1]


def autoattack_missing(error: ImportError) -> ImportError:
    """The optional package is not installed."""
    return ImportError(
        f"autoattack=True needs pyautoattack ({error}); install it with `pip install manyloss[attacks]`."
    )


def unknown_attacks(names: Iterable[str], known: Iterable[str]) -> ValueError:
    """An attack of that name does not exist."""
    return ValueError(
        f"sweep_attacks names {sorted(names)}; the attacks of this evaluation are {sorted(known)}."
    )
