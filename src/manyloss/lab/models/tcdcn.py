"""TCDCN (Zhang et al. 2014) for grey faces of 40x40, and the deeper network of GradNorm for 160x160.

In GradNorm's words (supplement 7.2), the layers of 40x40 are
[CONV-5-16][POOL-2][CONV-3-48][POOL-2][CONV-3-64][POOL-2][CONV-2-64][FC-100], and of 160x160
[CONV-5-16][POOL-2][CONV-3-32]^2[POOL-2][CONV-3-64]^2[POOL-2][CONV-3-128]^2[POOL-2]^2[CONV-3-128]^2[FC-100].
The small one has no padding and |tanh|, as TCDCN. Without padding nothing would be left of the large one's
image, so it is padded; it has ReLU. The initial weights are Xavier's and He's.

As |tanh x| = tanh |x| rises with |x|, the maximum of a pool is taken before the tanh, of which a quarter is
left to compute.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from manyloss.lab import checks

FEATURES = 100
WIDTH = 16


class Absolute(nn.Module):
    """|x|, before the tanh of TCDCN's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x.abs()


def encoder(size: int = 40, width: int = WIDTH) -> nn.Sequential:
    """Faces [B, 1, S, S] -> features [B, 100]; S is 40 or 160.

    ``width`` is the first layer's channels, 16 in the papers; those of the others change with it.

    Raises:
        LabError: another size.

    """
    layers: list[nn.Module] = []
    if size == 40:
        for inputs, outputs, kernel in ((1, width, 5), (width, 3 * width, 3), (3 * width, 4 * width, 3)):
            layers += [nn.Conv2d(inputs, outputs, kernel), Absolute(), nn.MaxPool2d(2), nn.Tanh()]
        layers += [nn.Conv2d(4 * width, 4 * width, 2), Absolute(), nn.Tanh(), nn.Flatten()]
        layers += [nn.Linear(4 * width * 2 * 2, FEATURES), Absolute(), nn.Tanh()]
        return _initialised(nn.Sequential(*layers), nn.init.xavier_normal_)
    if size == 160:
        layers += [nn.Conv2d(1, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        for inputs, outputs, pools in ((1, 2, 1), (2, 4, 1), (4, 8, 2), (8, 8, 0)):
            for channels in (inputs, outputs):
                layers += [nn.Conv2d(channels * width, outputs * width, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2) for _ in range(pools)]
        layers += [nn.Flatten(), nn.Linear(8 * width * 5 * 5, FEATURES), nn.ReLU()]
        return _initialised(nn.Sequential(*layers), nn.init.kaiming_normal_)
    raise checks.LabError(f"There is no TCDCN for faces of {size} pixels. Known: 40, 160.")


def _initialised(layers: nn.Sequential, weights: Callable[[Tensor], Tensor]) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers
