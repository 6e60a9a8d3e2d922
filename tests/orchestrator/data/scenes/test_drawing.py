"""Drawing of boxes, masks and maps: colours at pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from orchestrator.data.scenes.drawing import blend_map, blend_masks, class_colour, draw_box

ORANGE, SKY_BLUE, GREY = (230, 159, 0), (86, 180, 233), (110, 110, 110)


def test_a_class_has_its_colour_whatever_else_is_drawn() -> None:
    assert [class_colour(label) for label in (0, 1, 2)] == [GREY, ORANGE, SKY_BLUE]
    assert class_colour(8) == (242, 207, 128)  # half of the first one, half white
    assert class_colour(15) == (127, 87, 0)  # 0.55 of it
    assert len({class_colour(label) for label in range(22)}) == 22
    assert class_colour(22) == class_colour(1)


def test_a_map_is_mixed_with_its_image() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = blend_map(image, np.array([[0, 2, 255]]))
    assert mixed.tolist() == [[[106, 106, 106], [91, 152, 186], [35, 35, 35]]]  # 0.65 colour + 0.35 * 100


def test_masks_are_mixed_one_after_the_other() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    masks = np.array([[[1, 1, 0]], [[0, 1, 0]]], np.uint8)
    mixed = blend_masks(image, masks, [(200, 0, 0), (0, 0, 200)])
    assert mixed.tolist() == [[[145, 55, 55], [80, 30, 120], [100, 100, 100]]]  # 0.45 colour + 0.55 below it
    assert image.max() == 100


def test_a_text_is_above_its_box_or_inside_it() -> None:
    for top, row in ((50, 45), (3, 8)):
        picture = Image.new("RGB", (100, 100))
        draw_box(picture, (20, top, 90, 95), ORANGE, "cat")
        assert picture.getpixel((21, row)) == ORANGE  # the ground of the text
        assert picture.getpixel((89, 60)) == picture.getpixel((50, 94)) == ORANGE
        assert picture.getpixel((90, 60)) == picture.getpixel((50, 95)) == (0, 0, 0)
        assert picture.getpixel((50, 60)) == (0, 0, 0)
    picture = Image.new("RGB", (40, 40))
    draw_box(picture, (30, 30, 39, 39), SKY_BLUE, "a long name", width_px=2)
    assert picture.getpixel((0, 20)) == SKY_BLUE  # moved to the left, into the picture
    assert picture.getpixel((31, 31)) == SKY_BLUE
    assert picture.getpixel((33, 33)) == (0, 0, 0)
