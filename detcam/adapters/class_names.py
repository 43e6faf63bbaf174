"""A name for every class that a head scores; the number of classes is what its weights say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detcam.adapters.base import LoadOptions
from detcam.errors import InputError


def class_names_for(
    count: int, own: Mapping[int, str] | Sequence[str] | None, options: LoadOptions
) -> dict[int, str]:
    """Class id -> name: the user's names, else the model's own, else the ids.

    Args:
        count: classes that the head scores, read from its weights.
        own: the model's names; a missing one becomes its id.
        options: the user's `names`, and `num_classes` to check the count.

    Raises:
        InputError: the user's names or count do not fit the weights.
    """
    if options.num_classes is not None and options.num_classes != count:
        raise InputError(
            f"--num-classes says {options.num_classes}, but the weights of the head score {count}: "
            "leave it out, or give the file it belongs to"
        )
    if options.names is not None:
        if len(options.names) != count:
            raise InputError(f"{len(options.names)} names were given for the {count} classes of the head")
        return dict(enumerate(options.names))
    named = own if isinstance(own, Mapping) else dict(enumerate(own or ()))
    return {index: str(named.get(index, index)) for index in range(count)}


def classes_in(channels: int, anchors: int, extra: int = 0) -> int:
    """Number of classes in a map of `channels` = anchors·(4 + 1 + classes + extra).

    Args:
        channels: output channels of the head's last convolution.
        anchors: boxes per cell.
        extra: further channels of each box, such as mask coefficients.

    Raises:
        InputError: no whole, positive number of classes fits.
    """
    classes, rest = divmod(channels, anchors)
    classes -= 5 + extra
    if rest or classes < 1:
        raise InputError(
            f"a head of {channels} channels does not hold {anchors} anchors of 4 edges, objectness, "
            f"{f'{extra} further values ' if extra else ''}and at least one class: check the anchors"
        )
    return classes
