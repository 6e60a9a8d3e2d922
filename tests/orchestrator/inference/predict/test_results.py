"""Results, files and pictures of predictions that are known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.data.scenes.drawing import class_colour
from orchestrator.data.scenes.masks import decode_masks
from orchestrator.errors import DataError
from orchestrator.inference.predict import ClassifiedImage, DetectedImage, SegmentedImage
from orchestrator.inference.predict.files import find_files
from orchestrator.inference.predict.folder import PredictionFolder
from orchestrator.inference.predict.pictures import draw, scaled, with_legend
from orchestrator.inference.predict.results import result_of
from orchestrator.training.tasks.predictions import PredictedClass, PredictedMap, PredictedObjects, predicted_objects

NAMES = ("cat", "dog", "owl")
ORANGE, SKY_BLUE = class_colour(1), class_colour(2)


def picture_file(path: Path, width: int = 8, height: int = 6, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value,) * 3).save(path)
    return path


def two_objects() -> PredictedObjects:
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[1, 150:250, 100:200] = True
    return PredictedObjects(
        boxes=torch.tensor([[300.0, 300.0, 380.0, 390.0], [100.0, 150.0, 200.0, 250.0]]),
        labels=torch.tensor([1, 2]),
        scores=torch.tensor([0.6, 0.9]),
        masks=masks,
    )


def test_classes_are_ordered_by_their_probability() -> None:
    found = result_of(PredictedClass(torch.tensor([0.2, 0.5, 0.3])), Path("a.png"), (6, 8), NAMES, 2)
    assert isinstance(found, ClassifiedImage)
    assert [(each.label, each.name) for each in found.classes] == [(1, "dog"), (2, "owl")]
    assert found.as_dict() == {
        "image": "a.png", "width": 8, "height": 6,
        "classes": [
            {"label": 1, "name": "dog", "probability": 0.5},
            {"label": 2, "name": "owl", "probability": pytest.approx(0.3)},
        ],
    }  # fmt: skip


def test_a_map_has_shares_colours_and_a_legend() -> None:
    class_map = torch.zeros(4, 8, dtype=torch.int64)
    class_map[:, 4:] = 2
    class_map[0, 0] = 1
    found = result_of(PredictedMap(class_map), Path("a.png"), (4, 8), NAMES, 5)
    assert isinstance(found, SegmentedImage)
    assert [(each.name, each.share) for each in found.classes] == [("owl", 0.5), ("cat", 15 / 32), ("dog", 1 / 32)]
    drawn = draw(found, np.full((4, 8, 3), 100, np.uint8))
    assert drawn.picture.size == (8 * 48, 4 * 48)
    assert drawn.picture.getpixel((4 * 48, 0)) == (91, 152, 186)
    assert drawn.picture.getpixel((4 * 48 - 1, 100)) == (106, 106, 106)
    whole = with_legend(drawn)
    assert whole.getpixel((10, 4 * 48 + 6 + 9)) == SKY_BLUE
    assert whole.getpixel((10, 4 * 48 + 6 + 18 + 9)) == class_colour(0)
    assert whole.getpixel((10, 4 * 48 + 6 + 36 + 9)) == ORANGE
    assert whole.height == 4 * 48 + 3 * 18 + 12


def test_objects_are_drawn_and_written_with_their_masks() -> None:
    found = result_of(two_objects(), Path("a.png"), (400, 400), NAMES, 5)
    assert isinstance(found, DetectedImage)
    assert [(each.name, each.box) for each in found.objects] == [
        ("dog", (100.0, 150.0, 200.0, 250.0)), ("cat", (300.0, 300.0, 380.0, 390.0)),
    ]  # fmt: skip
    first = json.loads(json.dumps(found.as_dict()))["objects"][0]
    assert (first["label"], first["score"]) == (2, pytest.approx(0.9))
    assert first["mask"]["size"] == [400, 400]
    counts = first["mask"]["counts"].encode()
    again = decode_masks([counts], 400, 400)[0]
    assert again.sum() == 100 * 100
    assert again[150:250, 100:200].all()
    picture = draw(found, np.full((400, 400, 3), 100, np.uint8)).picture
    assert picture.getpixel((300, 350)) == ORANGE
    assert picture.getpixel((150, 200)) == tuple(round(0.55 * 100 + 0.45 * each) for each in SKY_BLUE)
    assert picture.getpixel((250, 100)) == (100, 100, 100)
    nothing = result_of(
        PredictedObjects(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0)), Path("a"), (9, 9), NAMES, 5
    )
    assert [line.text for line in draw(nothing, np.zeros((9, 9, 3), np.uint8)).legend] == [
        "no object of this score or above"
    ]


def test_detections_are_kept_by_score_and_mapped_to_the_image() -> None:
    outputs = [
        {
            "boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]]),
            "labels": torch.tensor([1, 2]),
            "scores": torch.tensor([0.5, 0.4]),
        }
    ]
    target = {"input_size": torch.tensor([10, 20]), "original_size": torch.tensor([20, 60])}
    (found,) = predicted_objects(outputs, [target], least_score=0.5)
    assert found.boxes.tolist() == [[3.0, 4.0, 9.0, 8.0]]
    assert (found.labels.tolist(), found.masks) == ([1], None)


def test_pictures_have_a_size_to_look_at() -> None:
    assert scaled(np.zeros((8, 8, 3), np.uint8))[0].size == (384, 384)
    assert scaled(np.zeros((500, 400, 3), np.uint8)) == (Image.new("RGB", (400, 500)), 1.0)
    small, scale = scaled(np.zeros((1000, 4096, 3), np.uint8))
    assert (small.size, scale) == ((2048, 500), 0.5)


def test_all_bad_images_are_named_at_once(tmp_path: Path) -> None:
    good = picture_file(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    cut = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    given = [good, tmp_path / "broken.jpg", tmp_path / "gone.png", cut, tmp_path / "empty"]
    with pytest.raises(DataError) as raised:
        find_files(given)
    lines = str(raised.value).splitlines()
    assert lines[0] == "4 of the images cannot be used:"
    assert sorted(Path(line.partition(":")[0]).name for line in lines[1:]) == [
        "broken.jpg", "cut.png", "empty", "gone.png",
    ]  # fmt: skip
    assert "no such file or folder" in str(raised.value)
    assert "holds no image files (" in str(raised.value)
    with pytest.raises(DataError, match=r"gone\.png: no such file or folder$"):
        find_files([tmp_path / "gone.png"])
    with pytest.raises(DataError, match=r"xxx: cannot be read \(File name too long\)$"):
        find_files(["x" * 300])
    with pytest.raises(DataError, match="no images are given"):
        find_files([])


def test_folders_are_read_at_any_depth_and_files_once(tmp_path: Path) -> None:
    first = picture_file(tmp_path / "in" / "a.png", 8, 6)
    second = picture_file(tmp_path / "in" / "deep" / "b.png", 5, 7)
    (tmp_path / "in" / "notes.txt").write_text("x")
    files, notes = find_files([tmp_path / "in", first])
    assert list(files.paths) == [first, second]
    assert files.sizes.tolist() == [[6, 8], [7, 5]]
    assert notes == (f"{tmp_path / 'in'}: passed over 1 files with the ending .txt: notes.txt",)


def test_files_of_a_folder_are_not_replaced_without_force(tmp_path: Path) -> None:
    files, _ = find_files([picture_file(tmp_path / "in" / "a.png"), picture_file(tmp_path / "in" / "b" / "a.png")])
    out = tmp_path / "out"
    folder = PredictionFolder.prepared(out, files, force=False)
    assert folder.names == ("a", "a-2")
    found = result_of(PredictedMap(torch.full((6, 8), 2)), files.paths[1], (6, 8), NAMES, 5)
    written = folder.write(1, found, files.pixels(1))
    assert (written["picture"], written["class_map"]) == ("a-2.png", "a-2.classes.png")
    assert np.asarray(Image.open(out / "a-2.classes.png")).tolist() == [[2] * 8] * 6
    assert np.asarray(Image.open(out / "a-2.png"))[0, 0].tolist() == [91, 152, 186]
    folder.write_table({"task": "segmentation"}, [written])
    with pytest.raises(DataError, match=r"has a-2\.png, a-2\.classes\.png, predictions\.json; .* with --force"):
        PredictionFolder.prepared(out, files, force=False)
    PredictionFolder.prepared(out, files, force=True)
    with pytest.raises(DataError, match=r"a\.png would replace an image that is read"):
        PredictionFolder.prepared(tmp_path / "in", files, force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file: is a file; name a folder, such as .*/file-predicted"):
        PredictionFolder.prepared(tmp_path / "file", files, force=True)
