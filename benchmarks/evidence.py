"""Which map tells the truth: the leaderboard of docs/evidence.md, on held-out photographs and planted scenes.

Needs the photographs and weights that `DETCAM_ASSETS` points at. What is measured stays: run it again
to go on.
    python benchmarks/evidence.py                 # measure everything, then write the table
    python benchmarks/evidence.py yolov8n.pt      # measure one model
    python benchmarks/evidence.py --table         # write the table of what is there
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import detcam
from detcam.evaluation import (
    EvaluateOptions,
    Evaluator,
    LabelledSource,
    PlantedSource,
    Source,
    Way,
    evaluate,
    open_unfinished,
    ways_for,
    write_question,
    write_tables,
)
from detcam.files import make_folder
from detcam.labels import read_labelled
from detcam.outputs import RunFolder
from detcam.structures import stage_names

HERE = Path(__file__).parent
ASSETS = Path(os.environ.get("DETCAM_ASSETS", HERE.parents[1] / "shared" / "assets"))
OUT = HERE.parent / "runs" / "evidence"
MODELS = ("yolov8n.pt", "yolo26n.pt", "yolov5n.pt", "yolox_nano.pth")
PLANTED = ("shapes-shortcut.pt", "shapes.pt")
PHOTOGRAPHS, BOXES, SCENES = 32, 2, 15
FAITHFUL = ("deletion", "insertion", "overall", "energy-in-box", "pointing-game")


@dataclass(frozen=True)
class HeldOut:
    """Every second photograph, on which nothing was chosen; the first `PHOTOGRAPHS` of them."""

    source: Source

    @property
    def paths(self) -> list[Path]:
        return list(self.source.paths)[1::2][:PHOTOGRAPHS]

    def load(self, number: int) -> Any:
        return self.source.load(2 * number + 1)


def ways(detector: Any) -> list[Way]:
    """What is compared: what people use, and what the search on the other half of the photographs chose.

    `random` and EigenCAM, far behind after a few detections, are left out for the time they take.
    """
    last = stage_names(detector.layers())[-1]
    chosen = [
        Way("grad-cam-elementwise", "evidence", "total", "class-logit"),
        Way("layer-cam", "evidence", "total", "class-logit"),
        Way("layer-cam", "backbone", "direct", "class-logit"),
        Way("layer-cam", "head", "direct", "class-logit"),
        Way("grad-cam", last, "total", "class-logit"),
    ]
    on_backbone = ways_for(["layer-cam"], ["backbone"], ["direct"], ["class-logit"])
    return [*chosen, *(way for way in on_backbone if way.is_control and way.method != "random")]


def planted_ways() -> list[Way]:
    return ways_for(
        ["layer-cam", "grad-cam-elementwise", "hires-cam", "grad-cam", "eigen-cam"],
        ["evidence", "stages", "backbone", "head"],
        ["direct", "total"],
        ["class-logit"],
    )


def questions() -> Iterator[tuple[str, Evaluator, Source]]:
    """Name, what is measured, and on what."""
    labelled = read_labelled(ASSETS / "coco64")
    coco = list(labelled.class_names.values())
    for name in MODELS:
        names = coco if name.endswith(".pth") else None
        detector = detcam.load(ASSETS / "weights" / name, names=names)
        source = HeldOut(LabelledSource.of(labelled, detector.class_names))
        yield (
            name,
            Evaluator(detector, ways(detector), EvaluateOptions(metrics=FAITHFUL, max_boxes=BOXES)),
            source,
        )
    for name in PLANTED:
        detector = detcam.load(HERE.parent / "weights" / name)
        options = EvaluateOptions(metrics=("energy-in-mask", "pointing-game-in-mask"))
        yield (
            name,
            Evaluator(detector, planted_ways(), options),
            PlantedSource.of(detector.class_names, SCENES),
        )


def measure(name: str, evaluator: Evaluator, source: Source) -> None:
    folder = OUT / Path(name).stem
    make_folder(OUT)
    if (folder / "run.json").exists():
        run = open_unfinished(folder, evaluator, name)
    else:
        run = RunFolder.create(OUT, folder.name, exist_ok=True)
        write_question(run, evaluator, name, ["benchmarks/evidence.py"])
    for step in evaluate(evaluator, source, run):
        print(f"{name} {step.done}/{step.total}, {step.seconds_left or 0:.0f} s left", flush=True)
    write_tables(run, source, evaluator, "csv")


def table(name: str, metric: str, variant: str = "") -> list[str]:
    """One Markdown row for each way, the largest first."""
    found = json.loads((OUT / Path(name).stem / "summary.json").read_bytes())
    lines = [line for line in found["lines"] if (line["metric"], line["variant"]) == (metric, variant)]
    lines.sort(key=lambda line: -line["value"]["mean"])
    return [_row(line, found["seconds_a_box"].get(line["way"])) for line in lines]


def _row(line: dict[str, Any], seconds: float | None) -> str:
    value, difference = line["value"], line["difference"]
    against = ""
    if difference is not None:
        against = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    interval = f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    count = f"{value['n']} ({value['undefined']})"
    return f"| {line['way']} | {interval} | {count} | {against} | {seconds or 0:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("DETCAM_THREADS", "1")))
    if not args.table:
        for name, evaluator, source in questions():
            if not args.models or name in args.models:
                measure(name, evaluator, source)
    if args.models:
        return
    head = [
        "| way | mean [95 %] | n (undefined) | minus Gaussian in the box | s a box |",
        "|---|---|---|---|---|",
    ]
    for name in MODELS:
        print("\n".join([f"\n### {name}: overall", *head, *table(name, "overall")]))
    for name in PLANTED:
        for region in ("marker", "object"):
            print(
                "\n".join(
                    [f"\n### {name}: energy on the {region}", *head, *table(name, "energy-in-mask", region)]
                )
            )


if __name__ == "__main__":
    main()
