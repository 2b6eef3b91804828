"""Texts as images: they fit, they differ, and they are as large as they can be."""

import numpy as np
import pytest

from skmm.vision import render_text


def ink(image):
    """Rows and columns that are not blank."""
    dark = np.asarray(image).min(2) < 128
    return np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))


@pytest.mark.parametrize(
    "text",
    [
        "beak",
        "a long-tailed bird with a yellow breast and dark wings on a thin branch",
        "one\ntwo\nthree",
        "Ümläut, ñandú, crème brûlée",
    ],
)
@pytest.mark.parametrize("size", [64, 224, (64, 200)])
def test_fits_and_is_large(text, size):
    (image,) = render_text(text, size, margin=0.1)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert image.shape == (height, width, 3)
    rows, columns = ink(image)
    for marks, side in ((rows, height), (columns, width)):
        assert marks[0] >= 0.1 * side - 2
        assert marks[-1] <= 0.9 * side + 2
    # Most of one side is used.
    assert max(np.ptp(rows) / height, np.ptp(columns) / width) > 0.5


def test_same_text_same_image():
    images = render_text(["beak", "tail", "beak"])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[2])
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(images[1], render_text("tail")[0])
    pictures = render_text(["beak", "tail"], output="pil")
    np.testing.assert_array_equal(
        np.stack([np.asarray(p) for p in pictures]), images[:2]
    )


def test_long_words_are_cut_and_no_text_is_blank():
    assert (render_text("", 32) == 255).all()
    assert ink(render_text("a" * 500, 32)[0])[0].size


def test_colours():
    image = render_text("beak", 64, color=(255, 0, 0), background="blue")[0]
    assert (image[0, 0] == [0, 0, 255]).all()
    assert (image.reshape(-1, 3) == [255, 0, 0]).all(1).any()


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"texts": [3]}, TypeError, r"texts: expected strings, got int at 0"),
        ({"texts": []}, ValueError, r"texts: expected at least one text"),
        ({"size": 0}, ValueError, r"size: expected a positive int.*got 0"),
        ({"size": (3, 4, 5)}, ValueError, r"size: expected a positive int"),
        ({"output": "png"}, ValueError, r"output: expected 'array' or 'pil'.*'png'"),
        ({"margin": 0.5}, ValueError, r"margin: expected a share in \[0, 0.5\)"),
        ({"font": "no such.ttf"}, ValueError, r"font: expected a TrueType.*Leave it"),
    ],
)
def test_bad_input(params, error, match):
    with pytest.raises(error, match=match):
        render_text(**{"texts": ["beak"], **params})
