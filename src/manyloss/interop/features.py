"""The output of an inner module, for models whose forward does not return the features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from manyloss import checks


class FeaturesOf:
    """Keeps what a module put out, exactly the tensor that the heads used.

    It is also needed with Accelerate's mixed precision, which casts what a prepared model returns: those
    copies are not what the heads used. ::

        encoder_output = FeaturesOf(model.encoder)
        outputs = model(inputs)
        multi.backward(losses, features=encoder_output.take())

    Args:
        module: its output is a tensor, a tuple that starts with one, a sequence of tensors (a pyramid), or a
            Hugging Face output with ``last_hidden_state``.

    """

    def __init__(self, module: nn.Module) -> None:
        self._output: Any = None
        self._name = type(module).__name__
        self._handle = module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output

    def take(self) -> Tensor | list[Tensor]:
        """The output of the last forward; it is let go, so that its graph can be freed.

        Raises:
            RuntimeError: there was no forward since the last call.

        """
        output, self._output = self._output, None
        if output is None:
            raise checks.no_forward(self._name)
        hidden = getattr(output, "last_hidden_state", None)
        if isinstance(hidden, Tensor):
            return hidden
        if isinstance(output, Tensor):
            return output
        if isinstance(output, list):
            return output
        first: Tensor = output[0]
        return first

    def close(self) -> None:
        """Leave the module."""
        self._handle.remove()
