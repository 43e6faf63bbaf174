"""The metrics as plain loops in Python numbers, from the papers and their code."""

from __future__ import annotations

import math


def best_pixels(heatmap):
    highest = max(max(row) for row in heatmap)
    return [(r, c) for r, row in enumerate(heatmap) for c, v in enumerate(row) if v == highest and v > 0]


def covered(box, r, c):
    x1, y1, x2, y2 = box
    return max(min(x2, c + 1) - max(x1, c), 0) * max(min(y2, r + 1) - max(y1, r), 0)


def energy(heatmap, weight):
    inside = total = 0.0
    for r, row in enumerate(heatmap):
        for c, value in enumerate(row):
            inside += max(value, 0) * weight(r, c)
            total += max(value, 0)
    return inside / total if total else math.nan


def compactness(heatmap, box):
    best = best_pixels(heatmap)
    spread = total = 0.0
    for r, row in enumerate(heatmap):
        for c, value in enumerate(row):
            d2 = sum((r - y) ** 2 + (c - x) ** 2 for y, x in best) / len(best) if best else math.nan
            spread += max(value, 0) * d2
            total += max(value, 0)
    size = ((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) / 4
    return math.sqrt(spread / (size * total)) if best else math.nan


def vea(heatmap, mask, threshold):
    values = [max(v, 0) for row in heatmap for v in row]
    low, high = min(values), max(values)
    both = either = 0
    for r, row in enumerate(heatmap):
        for c, value in enumerate(row):
            above = (max(value, 0) - low) / (high - low) > threshold
            both += above and mask[r][c]
            either += above or mask[r][c]
    return both / either


def odi(heatmap, boxes, own):
    others = in_all = 0.0
    for r, row in enumerate(heatmap):
        for c, value in enumerate(row):
            shares = [covered(box, r, c) for box in boxes]
            others += max(value, 0) * max(s for i, s in enumerate(shares) if i != own)
            in_all += max(value, 0) * max(shares)
    return others / in_all if in_all else math.nan


def spearman(first, second):
    def ranks(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    a, b = ranks(first), ranks(second)
    n, mean_a, mean_b = len(a), sum(a) / len(a), sum(b) / len(b)
    cov = sum((a[i] - mean_a) * (b[i] - mean_b) for i in range(n))
    var_a, var_b = sum((x - mean_a) ** 2 for x in a), sum((x - mean_b) ** 2 for x in b)
    return cov / math.sqrt(var_a * var_b)


def mirrored(i, side):
    while not 0 <= i < side:
        i = -i if i < 0 else 2 * (side - 1) - i
        if side == 1:
            return 0
    return i


def window(kernel, sigma):
    half = kernel // 2
    line = [math.exp(-((i - half) ** 2) / (2 * sigma**2)) for i in range(kernel)]
    return [[a * b / sum(line) ** 2 for b in line] for a in line]


def blur(heatmap, kernel, sigma):
    height, width, weights, half = len(heatmap), len(heatmap[0]), window(kernel, sigma), kernel // 2
    return [
        [
            sum(
                weights[i][j] * heatmap[mirrored(r + i - half, height)][mirrored(c + j - half, width)]
                for i in range(kernel)
                for j in range(kernel)
            )
            for c in range(width)
        ]
        for r in range(height)
    ]


def ssim(first, second):
    """Wang 2004 eq. 13, variances taken about the local mean, pixel by pixel."""
    height, width, weights = len(first), len(first[0]), window(11, 1.5)
    first, second = (
        [[v / max(abs(x) for q in m for x in q) for v in row] for row in m] for m in (first, second)
    )
    c1, c2 = 0.0004, 0.0036  # (.01·2)², (.03·2)²
    total = 0.0
    for r in range(height):
        for c in range(width):
            near = [
                (weights[i][j], mirrored(r + i - 5, height), mirrored(c + j - 5, width))
                for i in range(11)
                for j in range(11)
            ]
            mx, my = (sum(w * m[y][x] for w, y, x in near) for m in (first, second))
            vx = sum(w * (first[y][x] - mx) ** 2 for w, y, x in near)
            vy = sum(w * (second[y][x] - my) ** 2 for w, y, x in near)
            cov = sum(w * (first[y][x] - mx) * (second[y][x] - my) for w, y, x in near)
            total += (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return total / (height * width)


def iou(a, b):
    wide = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return wide * high / (area - wide * high)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def d_close(box, class_id, classes, boxes, probabilities):
    """As the loop in D-CLOSE's `evaluation.py` has it."""
    fits, scores = [], []
    for found, p in zip(boxes, probabilities, strict=True):
        fit = iou(box, found) if p.index(max(p)) == class_id else 0.0
        distance = 1 - cosine(p, classes)
        fits.append(fit)
        scores.append(fit * math.sqrt(math.exp(-(distance**2) / 0.25**2)))
    return scores[fits.index(max(fits))] if fits else 0.0


def causal_curve(start, finish, heatmap, step, score):
    """RISE's CausalMetric: replace `step` pixels at a time, the most salient first, and score."""
    height, width = len(heatmap), len(heatmap[0])
    order = sorted(((r, c) for r in range(height) for c in range(width)), key=lambda p: -heatmap[p[0]][p[1]])
    picture = [[list(row) for row in channel] for channel in start]
    scores = [score(picture)]
    for first in range(0, len(order), step):
        for r, c in order[first : first + step]:
            for channel in range(len(picture)):
                picture[channel][r][c] = finish[channel][r][c]
        scores.append(score(picture))
    return scores


def mean_of_curve(scores):
    """D-CLOSE's `auc`."""
    return (sum(scores) - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)
