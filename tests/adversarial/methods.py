"""Every way of training one model, ready to be run on `nets.batch()` or `nets.images()`."""

from manyloss.adversarial import (
    GradientDefense,
    GradientDistillation,
    PlainTraining,
    SobolevTraining,
    SoftTargets,
)

#: name -> (model, another network of its kind, a network with one output) -> method
METHODS = {
    "defense": lambda model, other, _: GradientDefense(model, other),
    "two-pass": lambda model, other, _: GradientDefense(model, other, simultaneous=False),
    "reweighted": lambda model, other, _: GradientDefense(model, other, greace="reweighted", mask="detached"),
    "distillation": lambda model, other, judge: GradientDistillation(model, other, judge),
    "minimax": lambda model, other, judge: GradientDistillation(model, other, judge, adversarial="minimax"),
    "sobolev": lambda model, other, _: SobolevTraining(model, other),
    "soft targets": lambda model, other, _: SoftTargets(model, other),
    "plain": lambda model, _, __: PlainTraining(model),
}
LEARNING = ("defense", "two-pass", "reweighted", "distillation", "minimax")
"""Those with a network of their own that learns."""
READING = (*LEARNING, "sobolev")
"""Those that differentiate an input gradient."""


def made(name, network, progress=0.5):
    """A method on networks that ``network(outputs)`` makes."""
    method = METHODS[name](network(4), network(4), network(1))
    method.set_progress(progress)
    return method
