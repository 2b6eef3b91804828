"""Pairs of a grey digit and a colour picture of another digit on a photo.

The random draws of a picture come in one fixed order, which belongs to the data set:
the same generator gives the same pictures bit for bit, so that order must stay.
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.utils import Bunch, column_or_1d

from skmm.datasets._checks import as_generator, check_number
from skmm.modalities import Modality

SIDE = 28
N_PIXELS = SIDE * SIDE

# Side of the square cut from a photo, in pixels, before it shrinks to 28 x 28.
SMALLEST_CROP, LARGEST_CROP = 28, 96
# A neighbour starts this many columns beside the digit: strokes touch or overlap.
NEAREST, FARTHEST = 17, 20
NEIGHBOUR_PROBABILITY = 0.6
# Largest shift of the digit to the sides, and up or down.
SHIFT_ACROSS, SHIFT_DOWN = 3, 2
# Blank columns on each side of the picture while it is drawn, so that neighbours, at
# most SHIFT_ACROSS + FARTHEST columns away, are cut off only at the end.
MARGIN = SHIFT_ACROSS + FARTHEST
# Mean brightness of ink and background differ by at least this.
LEAST_CONTRAST = 0.2
FAINTEST_INK = 0.7
NOISE = 0.03

PHOTO_DIGITS_DESCR = """\
Photo digits: a grey digit and another one of its class in colour on a photo
----------------------------------------------------------------------------
===== ======= ===============================================================
view  columns content
===== ======= ===============================================================
digit 784     a glyph, 1 x 28 x 28, 0 to 1
photo 2352    red, green and blue, 3 x 28 x 28, 0 to 1: another glyph of that
              class between cut-off neighbours on a crop of a photo
===== ======= ===============================================================

Real digits and real photos, but composed pictures: nobody photographed them. They take
the place of pairs of MNIST and SVHN where these cannot be downloaded; results on them
are not results on SVHN. The views agree in the class and in nothing else: they are
independent given it.

The glyphs are the caller's. The photos are china.jpg and flower.jpg, which
scikit-learn ships (licence CC BY 2.0; load_sample_images names the authors).
"""


def make_photo_digits(
    glyphs: Any,
    labels: Any,
    *,
    n_permutations: int = 1,
    return_X_y: bool = False,
    random_state: Any = None,
) -> Any:
    r"""Pair each grey digit with a colour picture of another digit of its class.

    The first modality is a glyph as it is. The second is a picture of a *different*
    glyph :math:`g` of the same class, made with

    .. math::  \min(1, \max(0, (1 - a) b + a c + e)), \qquad a = \alpha g'

    where :math:`b` is a random square of a photo, shrunk to 28 x 28, :math:`c` a
    colour whose mean differs from that of :math:`b` by at least 0.2, :math:`\alpha`
    uniform on [0.7, 1], :math:`e` normal with standard deviation 0.03, and :math:`g'`
    the glyph shifted by up to 3 columns and 2 rows, with a cut-off neighbour on each
    side with probability 0.6. Neighbours are glyphs of any class.

    Parameters
    ----------
    glyphs : array-like of shape (n_glyphs, 784) or (n_glyphs, 28, 28)
        Grey pictures of 28 x 28 pixels in [0, 1], 0 for paper and 1 for ink, such as
        those of MNIST. They are read as float32.
    labels : array-like of shape (n_glyphs,)
        Their classes, of any type and number; each has at least two glyphs.
    n_permutations : int, default=1
        How often each glyph occurs on either side, at least 1. Each time it has
        another random partner, perhaps the same by chance, and a new picture.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    random_state : int, Generator, RandomState or None, default=None
        An int gives the same data every time. A Generator is used as it is, a
        RandomState is drawn from once.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With ``n_samples = n_permutations * n_glyphs`` and the attributes

        data : ndarray of shape (n_samples, 3136)
            784 pixels of the digit by row, then the 784 red, the green and the blue
            ones of the photo; float32 in [0, 1]. Rows are in random order.
        target : ndarray of shape (n_samples,)
            The class, which both sides share.
        digit_rows, photo_rows : ndarray of shape (n_samples,), int
            Which of `glyphs` are to be read on the two sides; they always differ.
        feature_names : list of str
            Such as ``"digit__pixel_0_27"`` and ``"photo__red_0_27"``.
        target_names : ndarray of shape (n_classes,)
            The classes, sorted.
        modalities : dict of str to :class:`~skmm.modalities.Modality`
            Columns and shapes of ``"digit"``, (1, 28, 28), and ``"photo"``,
            (3, 28, 28), to pass as ``modalities``.
        DESCR : str
            What is real in the pictures and what is composed.

    (data, target) : tuple if `return_X_y` is True
        The first two of these attributes.

    Raises
    ------
    ValueError
        If `glyphs` are not of 28 x 28 pixels or not in [0, 1], `labels` do not fit
        them, or a class has a single glyph.
    ImportError
        If Pillow, which reads the photos, is not installed.

    See Also
    --------
    load_digits_pen : Bundled pairs by class, small and real on both sides.

    Notes
    -----
    Divide the glyphs into training and test parts first and pair each part by itself:
    a glyph then never occurs on both sides of the split, be it as a neighbour. There
    are two photos only, so that crops of training and test pictures overlap.

    The shift up or down is cyclic: glyphs need two blank rows above and below.

    A row takes 12.5 kB, and some 0.1 ms to make. Random streams are those of the
    installed NumPy, and photos those of the installed JPEG decoder: the pictures are
    the same wherever these agree.

    Examples
    --------
    The 8 x 8 digits of scikit-learn, three times as large and with a border:

    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skmm.datasets import make_photo_digits
    >>> small = load_digits()
    >>> glyphs = np.kron(small.images[:100] / 16, np.ones((1, 3, 3)))
    >>> glyphs = np.pad(glyphs, [(0, 0), (2, 2), (2, 2)])
    >>> pairs = make_photo_digits(glyphs, small.target[:100], random_state=0)
    >>> pairs.data.shape, pairs.data.dtype
    ((100, 3136), dtype('float32'))
    >>> pairs.modalities["photo"].columns, pairs.modalities["photo"].shape
    (slice(784, 3136, None), (3, 28, 28))
    >>> bool((pairs.digit_rows == pairs.photo_rows).any())
    False
    """
    glyphs = _check_glyphs(glyphs)
    labels = _check_labels(labels, len(glyphs))
    check_number(
        "n_permutations",
        n_permutations,
        low=1,
        integer=True,
        remedy="Use 1 to see each glyph once.",
    )
    rng, photos = as_generator(random_state), _read_photos()
    digit_rows, photo_rows = _draw_pairs(labels, n_permutations, rng)
    photo = _compose(glyphs, photo_rows, photos, rng)
    data = np.hstack([glyphs[digit_rows].reshape(-1, N_PIXELS), photo])
    target = labels[digit_rows]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        digit_rows=digit_rows,
        photo_rows=photo_rows,
        feature_names=_feature_names(),
        target_names=np.unique(labels),
        modalities={
            "digit": Modality(slice(0, N_PIXELS), shape=(1, SIDE, SIDE)),
            "photo": Modality(slice(N_PIXELS, 4 * N_PIXELS), shape=(3, SIDE, SIDE)),
        },
        DESCR=PHOTO_DIGITS_DESCR,
    )


def _check_glyphs(glyphs: Any) -> np.ndarray:
    """Return the glyphs as float32 pictures, (n_glyphs, 28, 28)."""
    glyphs = np.asarray(glyphs, dtype=np.float32)
    if len(glyphs.shape) < 2 or glyphs.shape[1:] not in [(N_PIXELS,), (SIDE, SIDE)]:
        raise ValueError(
            f"glyphs: expected shape (n, {N_PIXELS}) or (n, {SIDE}, {SIDE}), got "
            f"{glyphs.shape}. Pad or resize the pictures to {SIDE} x {SIDE}."
        )
    if len(glyphs) == 0:
        raise ValueError("glyphs: expected at least two of a class, got 0. Pass some.")
    low, high = glyphs.min(), glyphs.max()
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(
            f"glyphs: expected values in [0, 1], got {low} to {high}. Divide pixels "
            "of 0 to 255 by 255, and fill or drop what is NaN."
        )
    return glyphs.reshape(-1, SIDE, SIDE)


def _check_labels(labels: Any, n_glyphs: int) -> np.ndarray:
    """Return the labels as an array, if every class can be paired."""
    labels = column_or_1d(labels)
    if len(labels) != n_glyphs:
        raise ValueError(
            f"labels: expected {n_glyphs}, one a glyph, got {len(labels)}. Pass "
            "glyphs and labels in the same order."
        )
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            "labels: expected at least two glyphs of each class, got one of "
            f"{classes[counts < 2].tolist()}. Add glyphs or leave such classes out."
        )
    return labels


def _read_photos() -> list[np.ndarray]:
    """Read the photos of scikit-learn, float64 in [0, 1], (427, 640, 3) each."""
    try:
        images = load_sample_images().images
    except ImportError as error:
        raise ImportError(
            "make_photo_digits: expected Pillow, to read scikit-learn's photos, got "
            "an environment without it. Install it: pip install pillow."
        ) from error
    return [image / 255.0 for image in images]


def _feature_names() -> list[str]:
    pixels = [f"{i}_{j}" for i in range(SIDE) for j in range(SIDE)]
    channels = ("digit__pixel", "photo__red", "photo__green", "photo__blue")
    return [f"{channel}_{pixel}" for channel in channels for pixel in pixels]


def _draw_pairs(
    labels: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a different partner of the same class for every row, in random order."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    first, second = [], []
    for _ in range(n_permutations):
        for rows in members:
            first.append(rows)
            second.append(rows[_derange(len(rows), rng)])
    order = rng.permutation(n_permutations * len(labels))
    return np.concatenate(first)[order], np.concatenate(second)[order]


def _derange(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation without fixed points: a cyclic shift along a random order."""
    order = rng.permutation(n)
    moved = np.empty(n, dtype=np.intp)
    moved[order] = np.roll(order, 1 + rng.integers(n - 1))
    return moved


def _compose(
    glyphs: np.ndarray,
    rows: np.ndarray,
    photos: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw a picture of each of `rows`, channels first: (len(rows), 2352), float32."""
    glyphs = glyphs.astype(np.float64)
    neighbours = rng.integers(len(glyphs), size=(len(rows), 2))
    pictures = np.empty((len(rows), 3, SIDE, SIDE), dtype=np.float32)
    for picture, row, (left, right) in zip(pictures, rows, neighbours, strict=True):
        drawn = _draw_picture(glyphs[row], glyphs[left], glyphs[right], photos, rng)
        picture[:] = drawn.transpose(2, 0, 1)
    return pictures.reshape(len(rows), -1)


def _draw_picture(
    glyph: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    photos: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one picture, (28, 28, 3)."""
    background = _draw_background(photos, rng)
    ink = _draw_ink(glyph, left, right, rng)[:, :, None]
    colour = rng.random(3)
    while abs(colour.mean() - background.mean()) < LEAST_CONTRAST:
        colour = rng.random(3)
    ink = rng.uniform(FAINTEST_INK, 1.0) * ink
    noise = rng.normal(0, NOISE, background.shape)
    return np.clip(background * (1 - ink) + colour * ink + noise, 0, 1)


def _draw_background(photos: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw a square of a photo and shrink it by leaving out rows and columns."""
    photo = photos[rng.integers(len(photos))]
    size = rng.integers(SMALLEST_CROP, LARGEST_CROP + 1)
    top = rng.integers(photo.shape[0] - size)
    start = rng.integers(photo.shape[1] - size)
    kept = np.arange(SIDE) * size // SIDE
    return photo[np.ix_(top + kept, start + kept)]


def _draw_ink(
    glyph: np.ndarray, left: np.ndarray, right: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Shift the glyph a little and put its neighbours beside it, (28, 28)."""
    canvas = np.zeros((SIDE, MARGIN + SIDE + MARGIN))
    start = MARGIN + rng.integers(-SHIFT_ACROSS, SHIFT_ACROSS + 1)
    down = rng.integers(-SHIFT_DOWN, SHIFT_DOWN + 1)
    canvas[:, start : start + SIDE] = np.roll(glyph, down, axis=0)
    for direction, neighbour in ((-1, left), (1, right)):
        if rng.random() < NEIGHBOUR_PROBABILITY:
            at = start + direction * rng.integers(NEAREST, FARTHEST + 1)
            part = canvas[:, at : at + SIDE]
            np.maximum(part, neighbour, out=part)
    return canvas[:, MARGIN : MARGIN + SIDE]
