"""What `activation_maps` must give, in float64, by plain formulas and without a hook."""

import torch
from torch.nn import functional as F


def classifier(model, x, cut, change=lambda maps: maps):
    """`Classifier` out of place in float64: the output of layer `cut`, a leaf, and the scores."""
    w = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    kept = {}

    def mark(name, value):
        if name != cut:
            return value
        kept[name] = change(value.detach()).requires_grad_()
        return kept[name]

    y = mark("first", F.conv2d(x.double(), w["first.weight"], w["first.bias"], stride=2, padding=1))
    y = mark("relu", torch.where(y > 0, y, torch.zeros_like(y)))
    mean, var = (w[f"norm.running_{one}"][:, None, None] for one in ("mean", "var"))
    y = (y - mean) / (var + model.norm.eps).sqrt()
    y = mark("norm", y * w["norm.weight"][:, None, None] + w["norm.bias"][:, None, None])
    y = mark("second", F.conv2d(y, w["second.weight"], w["second.bias"], stride=2, padding=1))
    y = mark("silu", y / (1 + (-y).exp()))
    return kept[cut], y.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


def sums(terms):
    return terms.sum(dim=1).clamp(min=0)


def total(values):
    return values.sum(dim=(2, 3), keepdim=True)


def plus_plus(a, g):
    alpha = g**2 / (2 * g**2 + total(a) * g**3)
    return total(torch.where(g == 0, torch.zeros_like(g), alpha) * g.clamp(min=0))


def gate(g):
    return g.abs() / g.abs().amax(dim=(2, 3), keepdim=True)


TERMS = {
    "grad-cam": lambda a, g: g.mean((2, 3), keepdim=True) * a,
    "grad-cam++": lambda a, g: plus_plus(a, g) * a,
    "xgrad-cam": lambda a, g: total(g * a) / total(a) * a,
    "hires-cam": lambda a, g: g * a,
    "layer-cam": lambda a, g: g.clamp(min=0) * a,
    "grad-cam-elementwise": lambda a, g: (g * a).clamp(min=0),
    "ss-grad-cam": lambda a, g: g.mean((2, 3), keepdim=True) * a * gate(g),
    "ss-grad-cam++": lambda a, g: plus_plus(a, g) * a * gate(g),
}


def component(terms):
    """(B, C, h, w) -> first principal component of the cells, centred, bright where the mean is, by SVD."""
    found = []
    for one in terms:
        cells = one.flatten(1).T
        cells = cells - cells.mean(dim=0)
        u, s, _ = torch.linalg.svd(cells, full_matrices=False)
        scores = u[:, 0] * s[0]
        found.append((scores * torch.sign(scores @ cells.mean(dim=1))).reshape(one.shape[1:]))
    return torch.stack(found)


def ablated(model, x, cut, class_id, maps):
    """(B, C): the class's score without each channel."""
    columns = []
    for channel in range(maps.shape[1]):

        def without(values, channel=channel):
            values = values.clone()
            values[:, channel] = 0
            return values

        columns.append(classifier(model, x, cut, without)[1][:, class_id].detach())
    return torch.stack(columns, dim=1)


def masked(model, x, maps, class_id):
    """(B, C): the class's score of the picture seen through each channel."""
    grown = F.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)
    lowest = grown.amin((2, 3), keepdim=True)
    grown = (grown - lowest) / (grown.amax((2, 3), keepdim=True) - lowest)
    return torch.stack(
        [
            classifier(model, x.double() * grown[:, channel : channel + 1], "silu")[1][:, class_id].detach()
            for channel in range(maps.shape[1])
        ],
        dim=1,
    )


def maps_of(method, model, x, cut, class_id):
    """(B, h, w) of a method at one layer of `Classifier`."""
    a, scores = classifier(model, x, cut)
    (g,) = torch.autograd.grad(scores[:, class_id].sum(), a)
    a, scores = a.detach(), scores.detach()[:, class_id]
    if method in TERMS:
        return sums(TERMS[method](a, g))
    if method == "eigen-cam":
        return component(a)
    if method == "eigen-grad-cam":
        return component(g * a)
    if method == "cam":
        return (model.head.weight.detach().double()[class_id][:, None, None] * a).sum(dim=1)
    if method == "score-cam":
        return sums(masked(model, x, a, class_id).softmax(dim=1)[:, :, None, None] * a)
    if method == "ablation-cam":
        lost = (scores[:, None] - ablated(model, x, cut, class_id, a)) / scores.abs()[:, None]
        return sums(lost[:, :, None, None] * a)
    raise AssertionError(f"no replica of {method}")
