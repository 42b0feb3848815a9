"""What one step of GREAT costs, against one plain step of the same model, measured side by side.

    python benchmarks/adversarial.py [--threads 2] [--pairs 9] [--batch 32] [--width 64]

Limits (issue 4): a defense step at most 3.5 plain steps with an auxiliary the size of the model; a
distillation step at most 3 plain steps of the student plus one pass of the teacher. Each repetition times
all variants one after the other, in turn starting with another, and the medians of the paired ratios are
printed, one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from manyloss.adversarial import GradientDefense, GradientDistillation, networks

DEFENSE_LIMIT = 3.5
DISTILLATION_LIMIT = 3.0


def prepared(model, step):
    """A whole training step, the optimiser included."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def run():
        optimizer.zero_grad()
        step()
        optimizer.step()

    return run


def seconds(run):
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def variants(arguments):
    """The steps by name; every one has its own model of the same shape."""
    torch.manual_seed(0)
    x = torch.rand(arguments.batch, 3, 32, 32)
    y = torch.randint(10, (arguments.batch,))

    def network(slope=0.0):
        return networks.resnet18(width=arguments.width, slope=slope)

    def plain():
        model = network()
        return prepared(model, lambda: F.cross_entropy(model(x), y).backward())

    def defense(**settings):
        model = network()
        method = GradientDefense(model, network(networks.SLOPE), **settings)
        method.set_progress(0.5)
        return prepared(model, lambda: method.backward(x, y))

    def distillation(adversarial, narrower=1):
        model, teacher = network(), network()
        judge = networks.resnet11(width=arguments.width // narrower)  # the paper's for a ResNet-18 student
        method = GradientDistillation(model, teacher, judge, adversarial=adversarial)
        return prepared(model, lambda: method.backward(x, y))

    teacher = network().eval()

    def teacher_gradient():
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(teacher(inputs), y), inputs)

    return {
        "plain": plain(),
        "defense GRE(AT+CE)": defense(),
        "defense GREACE alone": defense(alpha_max=0.0),
        "defense two-pass": defense(simultaneous=False),
        "distillation non-saturating": distillation("non_saturating"),
        "distillation minimax": distillation("minimax"),
        "distillation half-width judge": distillation("non_saturating", narrower=2),
        "teacher gradient": teacher_gradient,
    }


def measure(arguments):
    """Seconds of every variant in every repetition, in turns."""
    runs = variants(arguments)
    for run in runs.values():
        run()
        run()
    names = list(runs)
    times = {name: [] for name in names}
    for repetition in range(arguments.pairs):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(seconds(runs[name]))
    return times


def main():
    """Measure, print, and write the file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    times = measure(arguments)

    def over_plain(name, subtracted=None):
        less = times[subtracted] if subtracted else [0.0] * arguments.pairs
        rows = zip(times[name], less, times["plain"], strict=True)
        return statistics.median((own - off) / plain for own, off, plain in rows)

    ratios = {name: over_plain(name) for name in times if name != "plain"}
    without_teacher = {
        name: over_plain(name, "teacher gradient") for name in times if name.startswith("distillation")
    }
    for name, ratio in ratios.items():
        row = {"step": name, "over_plain": round(ratio, 2)}
        if name in without_teacher:
            row |= {"less_the_teacher": round(without_teacher[name], 2), "limit": DISTILLATION_LIMIT}
        elif name == "defense GRE(AT+CE)":
            row |= {"limit": DEFENSE_LIMIT}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
