"""The examples run as they stand, and what they draw lies where it must."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path for path in EXAMPLES.glob("*.py") if path.read_text().startswith("# %%"))
OUT_OPTION = "--out"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an example once: its variables, and the pictures it wrote."""
    done = {}

    def once(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
                patch.syspath_prepend(str(EXAMPLES))
                patch.setattr(sys, "argv", [f"{name}.py", OUT_OPTION, str(folder)])
                done[name] = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__"), folder
        return done[name]

    return once


def inside(heatmap, mask):
    """Which share of a map's positive values lies where the mask does."""
    values = torch.as_tensor(heatmap).clamp(min=0)
    return float(values[torch.as_tensor(mask)].sum() / values.sum())


def check_pictures(folder, names):
    """They are there, large enough to be read, and show something."""
    for name in names:
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        assert min(pixels.shape[:2]) >= 250, name
        assert pixels.std() > 10, name


def test_there_is_an_example_for_each_use_and_the_readme_has_them_all():
    readme = (EXAMPLES / "README.md").read_text()
    assert len(NOTEBOOKS) == 8
    for path in NOTEBOOKS:
        assert f"[{path.name}]({path.name})" in readme


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_example_reads_as_a_notebook_that_begins_with_a_heading(path):
    first, *cells = path.read_text().split("\n# %%")
    assert first.startswith('# %% [markdown]\n"""# ')
    code = [cell for cell in cells if not cell.startswith(" [markdown]")]
    assert len(code) >= 4
    for cell in cells:
        compile(f"# %%{cell}", path.name, "exec")
        text = cell.removeprefix(" [markdown]\n")
        is_text = all(line.startswith("#") for line in text.strip().splitlines())
        assert is_text == (text != cell)


def test_towers_of_a_multi_input_network_answer_for_their_own_questions(run):
    example, folder = run("multi_input")
    patch, shares, maps = example["patch"], example["shares"], example["maps"]
    assert inside(maps["denoised patch"].heatmaps()[0], patch) > 4 * patch.mean()
    assert inside(maps["red disc"].heatmaps()[0], patch) < patch.mean()
    assert shares["denoised patch"]["colour"] < 0.2
    assert shares["red disc"]["colour"] > 0.6
    check_pictures(folder, ["towers.jpg"])


def test_segmented_classes_have_their_evidence_on_their_own_masks(run):
    example, folder = run("segmentation_mask")
    masks, heatmaps = example["masks"], example["heatmaps"]
    assert example["agreement"] > 0.9
    for name, mask in masks.items():
        own = inside(heatmaps[name][0], mask)
        assert own > 2 * mask.mean()
        assert all(own > inside(heatmaps[other][0], mask) for other in masks if other != name)
    check_pictures(folder, ["masks.jpg"])


def test_a_manipulation_map_has_its_evidence_on_the_edited_ellipse(run):
    example, _ = run("segmentation_mask")
    assert inside(example["manipulation"][0], example["patch"]) > 3 * example["patch"].mean()


@pytest.mark.parametrize("tower", ["convolutions", "transformer"])
def test_texts_find_their_own_figures(run, tower):
    example, folder = run("embedding")
    circle, square = example["drawn"].masks
    for text, own, other in (("red circle", circle, square), ("blue square", square, circle)):
        heatmap = example["maps"][tower, text].heatmaps()[0]
        assert inside(heatmap, own) > 2 * own.mean()
        assert inside(heatmap, own) > 3 * inside(heatmap, other)
    check_pictures(folder, ["texts.jpg"])


def test_a_contrast_leaves_nothing_on_the_other_texts_figure(run):
    example, _ = run("embedding")
    red, blue = example["twins"].masks
    heatmap = example["contrasts"]["red rather than blue circle"].heatmaps()[0]
    assert inside(heatmap, red) > 2 * red.mean()
    assert inside(heatmap, blue) < 0.05


def test_tokens_of_vision_transformers_lie_on_the_coloured_shape(run):
    example, folder = run("vision_transformers")
    mask = example["mask"]
    assert set(example["answers"].values()) == {"blue"}
    assert {name: tuple(one.shape[1:]) for name, one in example["swin_stages"].maps.items()} == {
        "features.1": (16, 16),
        "permute": (8, 8),
    }
    for name in ("vit_last", "vit_block", "small"):
        assert inside(example[name].heatmaps()[0], mask) > 2 * mask.mean(), name
    assert inside(example["swin_last"].heatmaps()[0], mask) > mask.mean()
    (inferred,), (told,) = example["vit_last"].maps.values(), example["vit_told"].maps.values()
    assert torch.equal(inferred, told)
    check_pictures(folder, ["transformers.jpg"])


def test_guided_grad_cam_lies_on_the_coloured_shape_and_has_its_colour(run):
    example, _ = run("vision_transformers")
    gradient, mask = np.abs(example["gradient"]), example["mask"]
    assert inside(gradient.sum(axis=2), mask) > 3 * mask.mean()
    assert gradient[..., 2].sum() > gradient[..., 0].sum()


def test_a_data_parallel_checkpoint_gives_the_maps_of_the_network_it_was_saved_from(run):
    example, folder = run("data_parallel_checkpoint")
    original, wrapped, loaded = example["maps"].values()
    for name, values in original.maps.items():
        assert torch.equal(values, wrapped.maps[name])
        assert torch.equal(values, loaded.maps[name])
    triangle = example["drawn"].masks[0]
    assert inside(original.heatmaps()[0], triangle) > 2 * triangle.mean()
    check_pictures(folder, ["checkpoint.jpg"])


def test_yolov4_finds_a_figure_and_its_evidence_lies_there(run):
    example, folder = run("yolov4_levels")
    explanation, outputs, drawn = example["explanation"], example["outputs"], example["drawn"]
    assert list(outputs["score"].levels) == list(explanation.levels) == ["P3", "P4", "P5"]
    score, level = float(explanation.detections.scores[0]), explanation.deciding[0]
    assert float(outputs["score"].levels[level].max()) == pytest.approx(score, abs=1e-5)
    enlarged = [mask.repeat(5, axis=0).repeat(5, axis=1) for mask in drawn.masks]  # the picture is 320 wide
    heatmap = explanation[0].heatmap
    assert max(inside(heatmap, mask) / mask.mean() for mask in enlarged) > 3
    check_pictures(folder, ["yolov4_score.jpg", "yolov4_evidence.jpg"])


def test_the_bundled_detector_scores_and_explains_its_circle_alone(run):
    example, folder = run("yolov4_levels")
    (box,) = example["why"].detections.boxes.tolist()
    merged = example["circles"].merged("score_0")
    y, x = divmod(int(merged.argmax()), merged.shape[1])
    assert box[0] < x < box[2]
    assert box[1] < y < box[3]
    assert float(example["circles"]["score_0"].levels["P5"].max()) < 0.01
    check_pictures(folder, ["shapes_circle.jpg", "shapes_evidence.jpg"])


def test_features_of_csp_backbones_are_the_stem_and_the_stages(run):
    example, folder = run("csp_features")
    assert [tuple(layer.values.shape) for layer in example["yolov4"].layers] == [
        (8, 416, 416),
        (8, 208, 208),
        (16, 104, 104),
        (32, 52, 52),
        (64, 26, 26),
        (128, 13, 13),
    ]
    with np.load(folder / "shapes_features.npz") as arrays:
        for layer in example["shapes"].layers:
            assert np.array_equal(arrays[layer.name], layer.values.numpy())
    check_pictures(folder, ["yolov4_stem.jpg", "yolov4_stage3.jpg", "shapes_P3.jpg"])


def test_a_callable_shows_what_it_looks_at_the_lamp_included(run):
    example, folder = run("black_box")
    masks = {"red": example["drawn"].masks[0], "blue": example["drawn"].masks[1]}
    lamp, heatmaps = example["lamp"], example["heatmaps"]
    assert set(heatmaps) == {"red", "blue"}
    for name, other in (("red", "blue"), ("blue", "red")):
        assert inside(heatmaps[name], masks[name]) > 2 * masks[name].mean()
        assert inside(heatmaps[name], masks[other]) < masks[other].mean()
    assert inside(heatmaps["red"], lamp) > 5 * lamp.mean()
    assert inside(heatmaps["blue"], lamp) < lamp.mean()
    check_pictures(folder, ["black_box.jpg"])


def test_an_example_is_a_plain_script_that_prints_its_pictures(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(EXAMPLES / "csp_features.py"),
        OUT_OPTION,
        str(tmp_path / "new" / "folder"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    printed = [Path(line) for line in ran.stdout.splitlines() if line.endswith(".jpg")]
    assert [path.name for path in printed] == ["yolov4_stem.jpg", "yolov4_stage3.jpg", "shapes_P3.jpg"]
    assert all(path.is_file() for path in printed)
