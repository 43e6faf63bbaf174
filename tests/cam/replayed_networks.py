"""Networks that make it hard to run them again from the middle on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(channels_in: int = 4, channels_out: int = 4) -> nn.Conv2d:
    made = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    made.weight.data.mul_(2)  # so that signals do not die out
    return made


class Small(nn.Module):
    """Modules by name, and a classifier at the end."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.layer, self.after = conv(3), conv(), conv(), conv()
        self.end = nn.Linear(4, 3)
        for name, module in modules.items():
            self.add_module(name, module)

    def scores(self, x):
        return self.end(x.mean(dim=(2, 3)))

    def forward(self, x):
        return self.scores(self.after(self.layer(self.middle(self.stem(x)))))


class WritesIntoOutputs(Small):
    """Writes in place into what modules before the layer gave: before, and after the layer ran."""

    def forward(self, x):
        first = F.silu(self.stem(x), inplace=True)
        second = self.middle(first)
        F.relu_(second)
        second += first
        y = self.layer(second)
        first += y
        second[:, :2].mul_(2)
        return self.scores(self.after(first) * second)


class WritesInModules(Small):
    """In-place modules whose results are thrown away, or are read through another name."""

    def __init__(self):
        super().__init__(silu=nn.SiLU(inplace=True), branch=nn.Sequential(nn.ReLU(inplace=True), conv()))

    def forward(self, x):
        first = self.stem(x)
        self.silu(first)
        second = self.branch(first)  # its ReLU has changed `first`
        y = self.layer(first + second)
        return self.scores(self.after(y) + first)


class WritesInBoth(Small):
    """One tensor that a module and then the code around it write into, before and after the layer."""

    def __init__(self):
        super().__init__(silu=nn.SiLU(inplace=True), relu=nn.ReLU(inplace=True))

    def forward(self, x):
        first = self.stem(x)
        second = self.silu(first)
        first += 0.5
        y = self.layer(second)
        self.relu(first)
        return self.scores(self.after(y) * first + second)


class WritesIntoInput(Small):
    """Normalises the picture in place."""

    def forward(self, x):
        x.sub_(0.5).div_(0.3)
        return self.scores(self.after(self.layer(self.stem(x)) + x.mean(dim=1, keepdim=True)))


class LayerWrites(Small):
    """A layer that computes in place, behind one name of its input and before the other is read."""

    def __init__(self):
        super().__init__(layer=nn.SiLU(inplace=True))

    def forward(self, x):
        first = self.stem(x)
        y = self.layer(first)
        return self.scores(self.after(y) + first)


class Residual(Small):
    """A block whose shortcut is the layer: `out += identity` writes into what came before it."""

    def forward(self, x):
        x = self.stem(x)
        out = self.middle(x)
        out += self.layer(x)
        return self.scores(self.after(out.relu_()))


class CalledTwice(Small):
    """One module before and after the layer, and again before it."""

    def forward(self, x):
        x = self.middle(self.middle(self.stem(x)).relu())
        return self.scores(self.middle(self.after(self.middle(self.layer(x)))))


class LayerCalledTwice(Small):
    """A head shared by two levels."""

    def forward(self, x):
        fine = self.stem(x)
        coarse = F.max_pool2d(fine, 2)
        fine, coarse = self.layer(fine), self.layer(self.middle(coarse))
        return self.scores(self.after(fine)) + 2 * self.scores(coarse)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine, self.coarse = conv(), nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x):
        return {"fine": self.fine(x), "coarse": (self.coarse(x), 7)}


class GivesSeveral(Small):
    """A layer with nested outputs."""

    def __init__(self):
        super().__init__(layer=Pair())

    def forward(self, x):
        found = self.layer(self.middle(self.stem(x)))
        coarse, factor = found["coarse"]
        return self.scores(self.after(found["fine"])) + factor * self.scores(coarse)


@dataclass
class Packed:
    """What pytree does not know."""

    tensor: torch.Tensor


class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = conv()

    def forward(self, x):
        return Packed(self.inner(x))


class PacksBefore(Small):
    """A module before the layer that gives an object; one that counts pictures; one that lists them."""

    def __init__(self):
        super().__init__(packs=Packs(), counts=Counts())

    def forward(self, x):
        x, pictures = self.counts(self.packs(self.stem(x)).tensor)
        return self.scores(self.after(self.layer(torch.stack(pictures))) * len(x) / len(pictures))


class Switch(nn.Module):
    """Gives an object when asked to."""

    def __init__(self):
        super().__init__()
        self.inner = conv()

    def forward(self, x, *, packed):
        return Packed(self.inner(x)) if packed else self.inner(x)


class Switches(Small):
    """A module that has to be computed when it is first called, and not when it is called again."""

    def __init__(self):
        super().__init__(switch=Switch())

    def forward(self, x):
        x = self.switch(self.stem(x), packed=True).tensor.relu()
        return self.scores(self.after(self.layer(self.switch(x, packed=False)) * x))


class View(nn.Module):
    """Writes into its argument and gives a part of it."""

    def forward(self, x):
        return x.relu_()[:, 1:]


class WritesIntoViews(Small):
    """A module gives a view of what it wrote into, and the code around writes there, too."""

    def __init__(self):
        super().__init__(stem=conv(3, 5), view=View())

    def forward(self, x):
        x = self.view(self.stem(x))
        x += 1
        return self.scores(self.after(self.layer(x) * x))


class Counts(nn.Module):
    def forward(self, x):
        return x, list(x)


class Windows(nn.Module):
    """(B, C, 8, 8) -> (B·4, 16, C): windows of 4×4 cells, one picture after the other."""

    def forward(self, x):
        x = x.unflatten(3, (2, 4)).unflatten(2, (2, 4))
        return x.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)


class Windowed(Small):
    """Attention in windows: the batch dimension has four rows for each picture, before and at the layer."""

    def __init__(self):
        super().__init__(windows=Windows(), norm=nn.LayerNorm(4), layer=nn.Linear(4, 4))

    def forward(self, x):
        tokens = self.norm(self.windows(self.stem(x)))
        y = self.layer(tokens) * tokens
        return self.end(y.unflatten(0, (-1, 4)).square().mean(dim=(1, 2)))


class SequenceFirst(Small):
    """Tokens (N, B, C), with a class token in front."""

    def __init__(self):
        super().__init__(norm=nn.LayerNorm(4), layer=nn.Linear(4, 4))
        self.register_buffer("token", torch.randn(1, 1, 4))

    def forward(self, x):
        tokens = self.norm(self.stem(x).flatten(2).permute(2, 0, 1))
        tokens = torch.cat([self.token.expand(-1, tokens.shape[1], -1), tokens])
        y = self.layer(tokens)
        return self.end(y[0] + (y[1:] * tokens[1:]).square().mean(dim=0))


class Constant(nn.Module):
    """The same for any number of pictures."""

    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.randn(1, 4, 8, 8))

    def forward(self, x):
        return self.grid * 2


class WithConstant(Small):
    """Adds a position encoding, and writes into it."""

    def __init__(self):
        super().__init__(position=Constant())

    def forward(self, x):
        position = self.position(x)
        position += 1
        return self.scores(self.after(self.layer(self.stem(x) + position)) * position)


class TakesSeveral(Small):
    """A picture, a second one by name, and numbers that belong to it."""

    def __init__(self):
        super().__init__(second=conv(1))

    def forward(self, x, *, heat, extra):
        y = self.layer(self.stem(x) + self.second(heat))
        return self.scores(self.after(y)) * extra["scale"] + self.scores(self.stem(x))


class OwnForward(Small):
    """As fused networks have it: `forward` lies among a module's own attributes."""

    def __init__(self):
        super().__init__()
        convolve = self.middle.forward
        self.middle.forward = lambda x: convolve(x).relu()


HARD_NETWORKS = [
    Small,
    WritesIntoOutputs,
    WritesInModules,
    WritesInBoth,
    WritesIntoInput,
    LayerWrites,
    Residual,
    CalledTwice,
    WritesIntoViews,
    PacksBefore,
    Switches,
    Windowed,
    SequenceFirst,
    WithConstant,
    OwnForward,
]


def lively(model: nn.Module, picture: Tensor) -> nn.Module:
    """The network with batch normalisation of pictures it has seen: without, signals die out in it."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(8, *picture.shape[1:]))
    return model.eval()


def full(model: nn.Module, layer: str, output: Tensor, run, inputs: Tensor, call: int = 0) -> Tensor:
    """The oracle: everything computed, with the layer's output replaced by a hook."""
    number = iter(range(100))
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda *_: output.clone() if next(number) == call else None)
    try:
        with torch.no_grad():
            return run(inputs)
    finally:
        handle.remove()


def random_outputs(replay, copies: int) -> Tensor:
    return replay.output(copies) * torch.rand(replay.output(copies).shape) * 2


def small_picture() -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
