"""The curves as a picture: how a detection fades as a map's pixels go, and comes back as they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from detcam.files import whole_file


def plot_curves(
    path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]], controls: Collection[str], title: str
) -> Path:
    """Write a PNG of mean deletion and insertion curves side by side, controls dashed.

    Args:
        path: to be written.
        curves: of `mean_curves`.
        controls: ways that know nothing of the network.
        title: which model and protocol.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction, goal in zip(panels, ("deletion", "insertion"), ("lower", "higher"), strict=True):
        for number, (way, curve) in enumerate(curves.items()):
            style = {"linestyle": "--", "alpha": 0.8} if way in controls else {"linewidth": 2.0}
            panel.plot(curve["fractions"], curve[direction], label=way, color=f"C{number % 10}", **style)
        panel.set(
            title=f"{direction} ({goal} is better)",
            xlabel="share of pixels changed",
            xlim=(0, 1),
            ylim=(0, None),
        )
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("score over f(0)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False
    )
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=130)
    return path
