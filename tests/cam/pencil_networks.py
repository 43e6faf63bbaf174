"""Networks small enough to work out by hand."""

import torch
from torch import nn


def grid(*rows):
    """One picture with one channel: (1, 1, h, w)."""
    return torch.tensor([[rows]], dtype=torch.float32)


class Times(nn.Module):
    """y = factor · x; remembers whether it ran with a graph."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))
        self.had_graph = None

    def forward(self, x):
        y = self.factor * x
        self.had_graph = y.requires_grad
        return y


class Chain(nn.Module):
    """A = 2x, B = 3A, result A ⊙ B: the neck reads both layers, and B is computed from A."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = Times(1), Times(2), Times(3)
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        a = self.a(self.stem(x))
        return a * self.b(a)


X = grid([1, -2], [0, 3])  # A = [[2, -4], [0, 6]], B = [[6, -12], [0, 18]]
W = grid([1, 2], [-1, 0.5])  # score S = Σ W ⊙ A ⊙ B
