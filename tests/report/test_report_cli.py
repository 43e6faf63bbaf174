"""`detcam report`, and `detcam explain --report`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image
from small_yolo import checkpoint, pictures


def test_report_prints_the_page_it_wrote(tmp_path, detcam_, write_run):
    write_run(tmp_path / "run")
    assert detcam_("report", "run") == (0, "run/street_report.html\n", "")
    assert (tmp_path / "run" / "street_report.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_report_prints_one_document_if_asked(tmp_path, detcam_, write_run):
    write_run(tmp_path / "run")
    code, out, _ = detcam_("report", "run", "--json")
    assert (code, json.loads(out)) == (0, {"run": "run", "pages": ["run/street_report.html"]})


def test_a_picture_without_a_page_is_said_and_is_exit_code_3(tmp_path, detcam_, write_run):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "street_cam.npz").unlink()
    code, out, err = detcam_("report", "run")
    assert (code, out) == (3, "")
    assert "street_cam.npz is missing. Explain the picture again" in err
    assert err.endswith("1 pictures have no page\n")


def test_report_of_what_is_no_run_is_one_line(detcam_):
    code, out, err = detcam_("report", "nowhere")
    assert (code, out) == (1, "")
    assert err.startswith("error: nowhere is no folder: give a folder that detcam explain wrote")
    assert err.count("\n") == 1


def test_explain_writes_the_same_pages_and_prints_their_paths_last(tmp_path, detcam_):
    shutil.copy(checkpoint(), tmp_path / "small.pt")
    for number, pixels in enumerate(pictures(2)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = detcam_("explain", "small.pt", "0.png", "1.png", "broken.png", "--report")
    assert code == 3
    run = Path("runs/explain/run")
    pages = [str(run / name) for name in ("0_report.html", "1_report.html", "index.html")]
    assert out.splitlines()[-3:] == pages
    assert "1 of 3 pictures failed" in err
    written = Path(pages[0]).read_bytes()
    assert detcam_("report", run)[:2] == (0, "\n".join(pages) + "\n")
    assert Path(pages[0]).read_bytes() == written


def test_explains_document_names_the_pages(tmp_path, detcam_):
    shutil.copy(checkpoint(), tmp_path / "small.pt")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    code, out, _ = detcam_(
        "explain", "small.pt", "street.png", "--layers", "head", "--report", "--save", "features", "--json"
    )
    document = json.loads(out)
    assert (code, document["pages"]) == (0, ["runs/explain/run/street_report.html"])
    assert (
        Path(document["pages"][0]).read_text("utf-8").count("<figure><img") == 1 + 3
    )  # the overlay, three sheets


def test_maps_of_random_masks_and_pictures_without_boxes_have_pages(tmp_path, detcam_):
    shutil.copy(checkpoint(), tmp_path / "small.pt")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    masks = ("--method", "d-rise", "--masks", "20", "--name", "masks")
    assert detcam_("explain", "small.pt", "street.png", "--report", *masks)[0] == 0
    masked = data_of("runs/explain/masks")["explanations"][0]
    assert [level["module"] for level in masked["levels"]] == [None]
    assert all(-1 <= box["convergence"] <= 1 for box in masked["boxes"])
    assert (
        detcam_("explain", "small.pt", "street.png", "--report", "--conf", "0.99", "--name", "none")[0] == 0
    )
    nothing = data_of("runs/explain/none")["explanations"][0]
    assert nothing["boxes"] == []
    assert 0 < nothing["best_score"] < 0.99


def test_rotated_boxes_keep_their_corners(tmp_path, detcam_):
    shutil.copy(checkpoint("OBB"), tmp_path / "rotated.pt")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    assert detcam_("explain", "rotated.pt", "street.png", "--report")[0] == 0
    boxes = data_of("runs/explain/run")["explanations"][0]["boxes"]
    assert boxes
    assert all(len(box["corners"]) == 4 for box in boxes)


def data_of(run: str) -> dict:
    page = (Path(run) / "street_report.html").read_text("utf-8")
    return json.loads(page.split('id="data">')[1].split("</script>")[0])
