"""Inception-v3 of the FID in Torch's layers, with the names of pytorch-fid and torch-fidelity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Unit(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: Any = 1, **geometry: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, bias=False, **geometry)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def mean_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def halving_pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


ACROSS: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
DOWN: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}


class A(nn.Module):
    def __init__(self, c: int, c_pool: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(c, 64)
        self.branch5x5_1, self.branch5x5_2 = Unit(c, 48), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(c, 64), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(c, c_pool)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(mean_pool(x))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pooled], 1)


class B(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(c, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(c, 64), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, halving_pool(x)], 1)


class C(nn.Module):
    def __init__(self, c: int, c7: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(c, 192)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = (
            Unit(c, c7),
            Unit(c7, c7, **ACROSS),
            Unit(c7, 192, **DOWN),
        )
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Unit(c, c7), Unit(c7, c7, **DOWN)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Unit(c7, c7, **ACROSS), Unit(c7, c7, **DOWN)
        self.branch7x7dbl_5 = Unit(c7, 192, **ACROSS)
        self.branch_pool = Unit(c, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))], 1)


class D(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(c, 192), Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(c, 192), Unit(192, 192, **ACROSS)
        self.branch7x7x3_3, self.branch7x7x3_4 = Unit(192, 192, **DOWN), Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), double, halving_pool(x)], 1)


class E(nn.Module):
    def __init__(self, c: int, pool: Any) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Unit(c, 320)
        self.branch3x3_1 = Unit(c, 384)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(c, 448), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(c, 192)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(self.pool(x))], 1)


class TorchInception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, 32, 3, stride=2), Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80), Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(768, 128), C(768, 160), C(768, 160), C(768, 192)
        self.Mixed_7a = D(768)
        self.Mixed_7b, self.Mixed_7c = E(1280, mean_pool), E(2048, max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in about [-1, 1] -> pooled features (N, 2048), and logits without their bias (N, 1008)."""
        x = halving_pool(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halving_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return x, x @ self.fc.weight.T


def random_inception() -> TorchInception:
    """Return a random network whose activations neither vanish nor explode, with batch norms far from the identity."""
    draw = torch.Generator().manual_seed(3)
    net = TorchInception().eval().requires_grad_(False)
    for name, array in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if array.ndim > 1:
            array.normal_(0, (2 / array[0].numel()) ** 0.5, generator=draw)
        elif name.endswith(("bn.weight", "running_var")):
            array.uniform_(0.5, 1.5, generator=draw)
        else:
            array.normal_(0, 0.2, generator=draw)
    return net
