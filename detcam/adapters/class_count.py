"""How many classes a head scores: read from its convolutions, its names or its tensors, never guessed.

The sources, in the order in which they are believed: the last convolutions, whose channels are exact; the
class names; the tensors' shapes, if they can be read in one way only. Sources that contradict each other are
an error, and so is a head that can be read in several ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from detcam.adapters.layouts import (
    BINS,
    LAYOUTS,
    MOST_ANCHORS,
    HeadFacts,
    Layout,
    readings,
    shapes_text,
)
from detcam.errors import AmbiguousHeadError, ShapeError

_SHOWN = 8  # readings that an error lists; the rest is counted
_WAYS_OUT = "give --num-classes, --names or --layout"


def infer(facts: HeadFacts) -> Layout:
    """The one reading of a head's tensors that agrees with everything that is known.

    Args:
        facts: at least shapes and input size.

    Returns:
        The layout, with its class count.

    Raises:
        AmbiguousHeadError: several readings remain, or the sources contradict each other.
        ShapeError: there is no reading at all.
    """
    found = readings(facts)
    what = f"a head of {shapes_text(facts.shapes)}"
    if not found:
        named = f"the layout {facts.layout!r}" if facts.layout else "no known layout"
        verb = "does not fit" if facts.layout else "fits"
        raise ShapeError(
            f"{named} {verb} {what} at an input of {list(facts.input_size)}: "
            "check strides, anchors, bins and the modules that were named"
        )
    told = _told(facts)
    counts = _agreed(told)
    fitting = [layout for layout in found if counts is None or layout.num_classes in (None, *counts)]
    if not fitting:
        said = " and ".join(f"{source} says {_either(values)}" for source, values in told.items())
        raise AmbiguousHeadError(
            f"{what} reads as {_listed(found)}, but {said}: give the count that fits, or --layout",
            [str(layout) for layout in found],
        )
    return _only(fitting, counts, what)


def class_count(facts: HeadFacts) -> int:
    """The number of classes by convolutions, names and what was said, for a head whose tensors were not seen.

    Raises:
        AmbiguousHeadError: several counts remain, the sources contradict each other, or there is none.
        ShapeError: the convolutions are of no known head.
    """
    counts = _agreed(_told(facts))
    if counts is None or len(counts) != 1:
        what = "nothing says how many classes there are"
        if counts:
            what = f"{_convolutions_text(facts)} read as {_either(counts)} classes"
        raise AmbiguousHeadError(
            f"{what}: give --num-classes or --names", [str(count) for count in sorted(counts or ())]
        )
    return next(iter(counts))


def counts_of_convolutions(facts: HeadFacts) -> set[int]:
    """Every class count that fits the output channels of the last convolutions of all levels.

    One convolution a level: A·(5 + K), with distributions 4·bins + K, or what the layout puts behind the
    classes as well. Two: box and classes. Three: box, objectness and classes. Which is which is found out by
    trying. They are taken for those of boxes alone: masks in the same map must be said with the layout.

    Raises:
        ShapeError: no count fits.
    """
    convolutions = facts.convolutions or ()
    ways = [set(_ways(channels, facts)) for channels in convolutions]
    # A reading is a count, the anchors and the bins: all three are the same at every level.
    common = set.intersection(*ways) if ways else set()
    if not common:
        raise ShapeError(
            f"{_convolutions_text(facts)} are those of no known head: "
            "check the modules, the anchors and the bins that were named"
        )
    return {count for count, _, _ in common}


def _ways(channels: tuple[int, ...], facts: HeadFacts) -> Iterator[tuple[int, int, int]]:
    """(classes, anchors, bins) of one level's convolutions."""
    anchor_counts = range(1, MOST_ANCHORS + 1) if facts.anchors is None else (facts.anchors,)
    extra = LAYOUTS[facts.layout].extra if facts.layout else 0
    bin_counts = (1, *BINS) if facts.reg_max is None else (facts.reg_max,)
    for anchors in anchor_counts:
        if any(width % anchors for width in channels):
            continue
        widths = [width // anchors for width in channels]
        for bins in bin_counts if anchors == 1 else (1,):
            yield from (
                (count, anchors, bins) for count in _counts(widths, bins, anchors, extra) if count >= 1
            )


def _counts(widths: Sequence[int], bins: int, anchors: int, extra: int) -> Iterator[int]:
    """Class counts of the convolutions of one anchor, `widths` values each."""
    if len(widths) == 1:
        # Several anchors come with an objectness; a single candidate per cell may do without.
        yield from (widths[0] - 4 * bins - extra - o for o in ((1,) if anchors > 1 else (0, 1)))
    elif len(widths) == 2:
        yield from (classes for box, classes in permutations(widths) if box == 4 * bins)
    elif len(widths) == 3:
        for box, objectness, classes in permutations(widths):
            if (box, objectness) == (4 * bins, 1):
                yield classes


def _told(facts: HeadFacts) -> dict[str, set[int]]:
    """Source -> the counts it allows, for every source but the tensors."""
    told: dict[str, set[int]] = {}
    if facts.convolutions is not None:
        told[_convolutions_text(facts)] = counts_of_convolutions(facts)
    if facts.num_names is not None:
        told["--names"] = {facts.num_names}
    if facts.num_classes is not None:
        told["--num-classes"] = {facts.num_classes}
    return told


def _agreed(told: dict[str, set[int]]) -> set[int] | None:
    """The counts that all sources allow; None without sources."""
    if not told:
        return None
    common = set.intersection(*told.values())
    if not common:
        said = ", ".join(f"{source}: {_either(counts)}" for source, counts in told.items())
        raise AmbiguousHeadError(
            f"the class count is contradictory ({said}): give what belongs to this model"
        )
    return common


def _only(fitting: Sequence[Layout], counts: set[int] | None, what: str) -> Layout:
    if len({str(layout) for layout in fitting}) > 1:
        ways_out = _WAYS_OUT
        if counts is not None and len(counts) == 1:
            is_named = len({layout.name for layout in fitting}) == 1
            ways_out = "give anchors, reg_max or strides" if is_named else "give --layout"
        raise AmbiguousHeadError(
            f"{what} reads as {_listed(fitting)}: {ways_out}", [str(layout) for layout in fitting]
        )
    layout = fitting[0]
    if len(fitting) > 1:
        strides = " or ".join(str(list(one.strides)) for one in fitting[:_SHOWN])
        raise AmbiguousHeadError(
            f"{what} reads as {layout} at strides {strides}: give strides", [str(layout)]
        )
    if layout.num_classes is not None:
        return layout
    if counts is None or len(counts) > 1:
        raise AmbiguousHeadError(
            f"{what} holds the winners of an end-to-end head, which do not show how many classes there are: "
            "give --num-classes or --names",
            [str(layout)],
        )
    return replace(layout, num_classes=next(iter(counts)))


def _listed(layouts: Sequence[Layout]) -> str:
    texts = list(dict.fromkeys(str(layout) for layout in layouts))  # some differ in their strides alone
    shown = texts[:_SHOWN]
    if len(texts) > _SHOWN:
        return f"{', '.join(shown)} or {len(texts) - _SHOWN} other ways"
    return " or ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def _either(counts: set[int]) -> str:
    return " or ".join(str(count) for count in sorted(counts))


def _convolutions_text(facts: HeadFacts) -> str:
    first = (facts.convolutions or ((),))[0]
    return f"the last convolutions ({' + '.join(str(width) for width in first)} channels)"
