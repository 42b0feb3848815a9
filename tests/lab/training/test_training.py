"""What a training does to the model before its first step."""

import torch
from torch import nn

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.recipes.cosreg_two_digits import TwoDigits
from manyloss.lab.training import Training


def test_a_strided_1x1_convolution_stays_as_it_is_on_a_cpu():
    """Channels last, torch 2.13 writes outside its memory there."""

    class Strided(TwoDigits):
        def encoder(self):
            return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1, 2), super().encoder())

    for kind, layout in ((TwoDigits, torch.channels_last), (Strided, torch.contiguous_format)):
        problem = kind(images_per_pair=4)
        arm = choose_arm("equal", problem)
        training = Training(problem, arm, 0, lambda _, p=problem: ArmContext(p.active_names, 0, problem=p))
        layers = [m for m in training.model.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]
        large = [layer.weight for layer in layers if layer.kernel_size != (1, 1)]
        assert large
        assert all(weight.is_contiguous(memory_format=layout) for weight in large)
