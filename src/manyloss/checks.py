"""Every error text of the library: what is wrong, what was received, what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from manyloss.errors import NotFiniteError


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


# ---------------------------------------------------------------- settings


def positive(setting: str, value: float) -> None:
    """``setting`` has to be a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{setting} must be a finite number above 0, got {value!r}.")


def not_negative(setting: str, value: float) -> None:
    """``setting`` has to be a finite number, at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{setting} must be a finite number, 0 or more, got {value!r}.")


def one_of(setting: str, value: object, choices: Sequence[object]) -> None:
    """``setting`` has to be one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{setting} must be one of {', '.join(map(repr, choices))}; received {value!r}.")


def at_least(name: str, value: float, minimum: float) -> None:
    """`value` is a number that is not below `minimum`."""
    if not value >= minimum:
        raise ValueError(f"{name} must be at least {minimum}; received {value}.")


def within(name: str, value: float, low: float, high: float) -> None:
    """`value` is a number in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}]; received {value}.")


def progress(value: float) -> None:
    """Progress of the training lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"set_progress takes epoch / epochs, a number in [0, 1]; received {value}.")


def instance_of(setting: str, value: object, kind: type, example: str) -> None:
    """``setting`` has to be an object of a family, not its class and not a list."""
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(
            f"{setting} got the class {value.__name__}, not an object: write {value.__name__}(...)."
        )
    if not isinstance(value, kind):
        raise TypeError(
            f"{setting} must be a manyloss {kind.__name__} such as {example}, got {type(value).__name__}. "
            "Penalties go into penalties=[...], an aggregator into aggregator=; there is one weighting."
        )


def penalties_kind(penalties: object) -> TypeError:
    """Penalties come as a sequence."""
    name = penalties.__name__ if isinstance(penalties, type) else type(penalties).__name__
    return TypeError(f"penalties must be a sequence, got a bare {name}: write penalties=[{name}(...)].")


def one_norm_rule(rescale: str, aggregator: str) -> None:
    """Two rules for the norm of the merged gradient cannot both hold."""
    raise ValueError(
        f"rescale={rescale!r} and {aggregator}(renormalize=True) both fix the norm of the merged gradient: "
        "use one of them."
    )


def settings_fit(owner: str, setting: str, given: Sequence[str], names: Sequence[str]) -> None:
    """A setting per loss has to name exactly the losses."""
    if set(given) != set(names):
        missing = _list(n for n in names if n not in given)
        unknown = _list(n for n in given if n not in names)
        raise ValueError(
            f"{owner}: {setting} must name the losses {_list(names)}; missing: {missing}; unknown: {unknown}."
        )


def per_loss(owner: str, setting: str, given: Any, names: Sequence[str]) -> dict[str, Any]:
    """A setting that is one value, a sequence in the order of the losses, or a mapping by name."""
    if isinstance(given, Mapping):
        settings_fit(owner, setting, list(given), names)
        return {name: given[name] for name in names}
    if isinstance(given, Tensor):
        given = given.tolist()
    if isinstance(given, str) or not isinstance(given, Sequence):
        return dict.fromkeys(names, given)
    if len(given) != len(names):
        raise ValueError(
            f"{owner}: {setting} has {len(given)} values for the {len(names)} losses {_list(names)}: "
            "give one per loss, or a mapping from name to value."
        )
    return dict(zip(names, given, strict=True))


# ---------------------------------------------------------------- losses


def no_losses() -> ValueError:
    """Nothing to do a backward of."""
    return ValueError("No losses: pass at least one scalar that is not None.")


def no_losses_on_a_rank() -> ValueError:
    """In a distributed run each rank needs a graph to go backward through."""
    return ValueError(
        "A rank has no losses in this step (all are None): every rank needs at least one; "
        "pass 0 * features.sum() under the name of a loss there."
    )


def loss_kind(losses: object) -> TypeError:
    """The container of losses is of a kind that is not understood."""
    return TypeError(
        "losses must be a mapping from name to scalar, a sequence of scalars or a 1-D tensor, "
        f"got {type(losses).__name__}"
        + (f" of shape {list(losses.shape)}." if isinstance(losses, Tensor) else ".")
    )


def name_kind(name: object) -> TypeError:
    """Names of losses are strings."""
    return TypeError(f"The name of a loss must be a string, got {name!r} ({type(name).__name__}).")


def one_name_twice(name: str) -> ValueError:
    """Two losses under one name."""
    return ValueError(f"Two losses are named {name!r}: every loss needs a name of its own.")


def scalar(name: str, loss: object) -> None:
    """A loss has to be a differentiable scalar."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"Loss {name!r} must be a scalar tensor or None, got {type(loss).__name__}.")
    if loss.dim() != 0:
        raise ValueError(
            f"Loss {name!r} must be a scalar, got shape {list(loss.shape)}: reduce it with .mean() or .sum()."
        )
    if not loss.is_floating_point():
        raise TypeError(f"Loss {name!r} must be a floating-point scalar, got {loss.dtype}.")
    if not loss.requires_grad:
        raise no_graph(name)


def no_graph(name: str) -> ValueError:
    """A loss that nothing can be learned from."""
    return ValueError(
        f"Loss {name!r} does not require grad: it was detached, or made under torch.no_grad(). "
        "Pass None for a loss that is absent in this step."
    )


def same_losses(expected: Sequence[str], received: Sequence[str]) -> None:
    """Names and order are fixed at the first call."""
    if tuple(expected) == tuple(received):
        return
    missing = [n for n in expected if n not in received]
    unknown = [n for n in received if n not in expected]
    if missing or unknown:
        raise ValueError(
            f"The losses differ from those of the first call: missing {_list(missing)}; "
            f"unknown {_list(unknown)}. Pass None for a loss that is absent in this step, "
            "or use another MultiLoss for other losses."
        )
    raise ValueError(
        f"The losses come in another order than at the first call: expected {_list(expected)}, "
        f"received {_list(received)}. Keep the order of the first call."
    )


def same_device(name: str, device: torch.device, place: str, expected: torch.device) -> None:
    """Losses and the place where they are read live on one device."""
    if device != expected:
        raise ValueError(f"Loss {name!r} is on {device}, the {place} on {expected}: move them to one device.")


def finite_losses(names: Sequence[str], values: Sequence[float]) -> None:
    """Without a GradScaler nobody would skip a step with inf or nan."""
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise NotFiniteError(
                f"Loss {name!r} is {value}: nothing was written. Look for a division, a log or an overflow "
                "in this loss; with float16, pass grad_scaler= so that such steps are skipped."
            )


def finite_gradients(names: Sequence[str], finite: Sequence[bool], place: str, written: bool) -> None:
    """Without a GradScaler nobody would skip a step with inf or nan."""
    for name, good in zip(names, finite, strict=True):
        if not good:
            raise NotFiniteError(
                f"The gradient of loss {name!r} at the {place} is not finite"
                + (
                    ": .grad of parameters after the features that already held a gradient now also holds "
                    "this step's: zero it before going on."
                    if written
                    else ": nothing was written."
                )
                + " With float16, pass grad_scaler= so that such steps are skipped."
            )


def positive_loss(owner: str, name: str, value: float, what: str) -> None:
    """Ratios of losses make sense only above 0."""
    if not value > 0:
        raise ValueError(
            f"{owner}: {what} of loss {name!r} is {value:g}, but L / L(0) needs losses above 0: "
            "shift the loss, or give initial values with initial=."
        )


# ---------------------------------------------------------------- places


def needs_place(what: str) -> ValueError:
    """A method that reads gradients needs to know where."""
    return ValueError(
        f"{what} reads gradients: pass features= (the encoder's output) or shared_params= to backward()."
    )


def needs_features(what: str) -> ValueError:
    """A method that is defined at features only."""
    return ValueError(f"{what} works at the features: pass features= (the encoder's output) to backward().")


def feature_tensor(index: int, features: object) -> None:
    """Features are differentiable tensors."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features must be a tensor or a sequence of tensors, item {index} is {type(features).__name__}."
        )
    if not features.requires_grad:
        raise ValueError(
            f"features (item {index}, shape {list(features.shape)}) do not require grad: they were detached "
            "or made under torch.no_grad(), so no gradient would reach the encoder."
        )


def no_features() -> ValueError:
    """An empty sequence of features or of parameters."""
    return ValueError(
        "features and shared_params must hold at least one tensor; pass None to leave them out."
    )


def independent_features(first: int, second: int) -> ValueError:
    """Gradients at features that depend on each other would be counted twice."""
    return ValueError(
        f"features item {first} is computed from features item {second}: gradients are aggregated where the "
        "encoder ends, so pass only tensors that do not depend on each other."
    )


def parameter(index: int, param: object) -> None:
    """Shared parameters are plain leaf tensors."""
    if not isinstance(param, Tensor):
        raise TypeError(
            f"shared_params must hold tensors, item {index} is {type(param).__name__}: "
            "pass module.parameters()."
        )
    if type(param).__name__ == "DTensor" or hasattr(param, "placements"):
        raise TypeError(
            f"shared_params item {index} is a DTensor (FSDP2): its gradient exists in shards only. "
            "Pass features= instead."
        )
    if not (param.requires_grad and param.is_leaf):
        raise ValueError(
            f"shared_params item {index} (shape {list(param.shape)}) is not a leaf that requires grad: "
            "pass parameters of the encoder."
        )


def reaches(name: str, grads: Sequence[object | None], place: str) -> None:
    """A loss has to depend on the place where its gradient is read."""
    if grads and all(grad is None for grad in grads):
        raise reaches_nothing(name, place)


def reaches_nothing(name: str, place: str) -> ValueError:
    """A loss that does not depend on the place where its gradient is read."""
    return ValueError(
        f"Loss {name!r} reaches none of the {place}. Usual causes: other features were passed than the "
        "heads used; an in-place operation on the features after they were made (such as "
        "ReLU(inplace=True) first in a head) replaced them; encoder, heads and losses were compiled as one "
        "graph: compile the encoder and the heads separately; or a reentrant checkpoint hides the "
        "parameters: use checkpoint(..., use_reentrant=False)."
    )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn torch's own complaints about a second pass into advice."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "donated buffers" in text:
            raise RuntimeError(
                f"The gradient of loss {name!r} cannot be read apart: a compiled module has given its "
                "buffers away. Before compiling, set torch._functorch.config.donated_buffer = False and "
                "torch._inductor.config.fx_graph_cache = False (a cached kernel would give them away again, "
                "without a word), or give every loss a head of its own."
            ) from error
        if "use_reentrant" in text or "checkpoint" in text.lower():
            raise RuntimeError(
                f"The gradient of loss {name!r} cannot be read apart: it passes a reentrant checkpoint. "
                "Use checkpoint(..., use_reentrant=False)."
            ) from error
        raise


def no_double_backward(node: str, who: str) -> NotImplementedError:
    """A penalty needs a second derivative that a node does not have."""
    if "Compiled" in node:
        way_out = (
            "leave what lies between the losses and the place uncompiled; the encoder before it may stay"
        )
    elif "Cudnn" in node or "Miopen" in node:
        way_out = "run that layer with torch.backends.cudnn.flags(enabled=False)"
    else:
        way_out = "use torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the forward"
    return NotImplementedError(f"{who} needs a double backward, which {node} does not have: {way_out}.")


def still_there(who: str, leaves: Iterable[Tensor]) -> None:
    """A double backward needs the parameters that the first pass used; FSDP2 frees them after it."""
    if any(leaf.numel() and leaf.untyped_storage().size() == 0 for leaf in leaves):
        raise RuntimeError(
            f"{who} needs parameters that FSDP2 has resharded after the first pass: call "
            "model.set_reshard_after_backward(False) once, and reshard() on every FSDP module after each "
            "backward of MultiLoss."
        )


def no_tap() -> ValueError:
    """``read="tap"`` where one backward cannot tell the losses apart."""
    return ValueError(
        'read="tap" is not legal here: losses share a node after the features, features carry hooks or come '
        'as leaves or from different moments, or there are penalties. Use read="auto".'
    )


# ---------------------------------------------------------------- state


def same_method(expected: str, received: str) -> None:
    """A checkpoint of another method."""
    if expected != received:
        raise ValueError(
            f"The checkpoint holds the state of {received}, this object is {expected}: build the same "
            "MultiLoss as the one that was saved."
        )


def checkpoint_losses(expected: Sequence[str], received: Sequence[str]) -> None:
    """A checkpoint made with other losses."""
    if tuple(expected) != tuple(received):
        raise ValueError(
            f"The checkpoint was made with the losses {_list(received)}, this MultiLoss has "
            f"{_list(expected)}: load it into a MultiLoss for the same losses in the same order."
        )


def any_step(what: str, counts: Mapping[str, int]) -> None:
    """A summary of steps needs one step at least."""
    if not any(counts.values()):
        raise RuntimeError(f"{what} needs at least one step: train first, then ask.")


# ---------------------------------------------------------------- interop


def not_installed(what: str, package: str, extra: str | None) -> ImportError:
    """An optional package is missing."""
    way = f'pip install "manyloss[{extra}]"' if extra else f"pip install {package}"
    return ImportError(f"{what} needs {package}, which is not installed: {way}.")


def own_backward(kind: str) -> NotImplementedError:
    """Something that runs the backward itself leaves no room for MultiLoss."""
    return NotImplementedError(
        f"{kind} runs the backward itself, so gradients cannot be merged in it: use "
        "DistributedDataParallel or FSDP2 (torchrun), and an ordinary optimiser."
    )


def no_forward(module: str) -> RuntimeError:
    """``FeaturesOf`` has nothing to give."""
    return RuntimeError(
        f"FeaturesOf({module}) saw no forward since its last take(): run the model first, take once a step."
    )


def no_state(path: object) -> FileNotFoundError:
    """A checkpoint of a Trainer without MultiLoss."""
    return FileNotFoundError(
        f"{path} does not exist: the checkpoint was not written by MultiLossTrainer. Resume from one that "
        "was, or load the model's weights and start anew."
    )


def torchjd_kind(name: str, what: str) -> TypeError:
    """``from_torchjd`` takes an object of TorchJD's aggregation package."""
    hint = f"write from_torchjd({name}(...))" if what == "the class" else "such as UPGrad()"
    return TypeError(f"from_torchjd needs an aggregator or weighting of TorchJD, got {what} {name}: {hint}.")


def torchjd_two_batches(name: str) -> ValueError:
    """Methods that need independent estimates of the gradients."""
    return ValueError(
        f"{name} reads products of the gradients of two independent batches, and a step has one batch: "
        "call it by hand as its own documentation shows, or use MGDA."
    )


def torchjd_one_rank(name: str, world: int) -> ValueError:
    """Entries of the matrix live on other ranks."""
    return ValueError(
        f"TorchJD's {name} reads the whole matrix of gradients, whose columns at the features are spread "
        f"over {world} ranks: pass shared_params= without features, where gradients are averaged, "
        "or use a method that reads the Gramian."
    )


def torchjd_absent(name: str, absent: Sequence[str]) -> ValueError:
    """A stateful method of TorchJD counts the losses."""
    return ValueError(
        f"TorchJD's {name} keeps state for a fixed number of losses, and {_list(absent)} "
        f"{'is' if len(absent) == 1 else 'are'} absent in this step: use a method without state, "
        "or give every loss in every step."
    )


def torchjd_not_finite(name: str, names: Sequence[str], weights: Sequence[float] | None) -> ValueError:
    """The gradients were finite, the result is not."""
    got = "" if weights is None else f": weights {', '.join(f'{w:g}' for w in weights)} for {_list(names)}"
    return ValueError(
        f"TorchJD's {name} gave a result that is not finite{got}. A zero gradient or repeated ones may be "
        "outside of what it can do: look at result.cosines with measure=True."
    )


# ---------------------------------------------------------------- diagnostics


def layer_without_parameters(name: str) -> ValueError:
    """A ConflictRecorder was given a layer in which nothing is learned."""
    return ValueError(
        f"layers: {name!r} has no parameters that require grad, so no gradient can be read there: "
        "name a module that has, or leave it out."
    )


def no_records() -> ValueError:
    """Nothing was recorded yet."""
    return ValueError("There are no records to diagnose: attach the ConflictRecorder before training starts.")


# ---------------------------------------------------------------- adversaries and robustness

LOGIT_TOLERANCE = 1e-4

# autograd nodes without a double backward, and what to do about each
NO_DOUBLE_BACKWARD = {
    "CompiledFunctionBackward": "a compiled module; pass the model from before torch.compile (a compiled "
    "model keeps it as `model._orig_mod`)",
    "CudnnRnnBackward": "a cuDNN RNN; run the forward under torch.backends.cudnn.flags(enabled=False)",
    "ScaledDotProduct": "fused attention; run the step under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "CheckpointFunctionBackward": "a reentrant checkpoint; pass use_reentrant=False to checkpoint()",
}


def same_classes(student: Tensor, teacher: Tensor) -> None:
    """Soft targets need one class list."""
    if student.shape != teacher.shape:
        raise ValueError(
            "Soft targets need student and teacher with the same classes; received logits "
            f"{list(student.shape)} and "
            f"{list(teacher.shape)}."
        )


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


def too_few_classes(what: str, needed: int, received: int) -> ValueError:
    """An attack that compares more classes than there are."""
    return ValueError(
        f"{what} needs logits of {needed} classes at least; received {received}. Leave it out: PGD with both "
        "losses works with two classes, too."
    )


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
