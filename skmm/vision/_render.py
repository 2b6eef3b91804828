"""Text as images, for encoders that read it as they see everything else."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from skmm.vision._extra import import_extra

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST, LARGEST = 6, 400  # pixels; a text that is still too long is cut
SPACING = 0.25  # between lines, as a share of the size of the font


def render_text(
    texts: Any,
    size: int | tuple[int, int] = 224,
    *,
    output: str = "array",
    color: Any = "black",
    background: Any = "white",
    margin: float = 0.06,
    font: Any = None,
) -> Any:
    """Write texts into images, as large as they fit.

    Each text is broken between words, where that lets it be larger, and stands in the
    middle of its image, in the largest size with which it fits. CM-GLasso encodes the
    attributes of classes in this way, with the encoder of the images, so that texts
    and patches lie in one space.

    Parameters
    ----------
    texts : str or iterable of str
        The texts, with their own line breaks kept.
    size : int or tuple of int, default=224
        Side of the images, or height and width, in pixels.
    output : {"array", "pil"}, default="array"
        An array, or a list of Pillow's images.
    color : str or tuple of int, default="black"
        Of the text: any that Pillow knows.
    background : str or tuple of int, default="white"
        Of the image.
    margin : float, default=0.06
        What stays free on each side, as a share of it; at least 0 and below 0.5.
    font : str or path-like, default=None
        A TrueType or OpenType file. If None, the font that comes with Pillow, which
        has the letters of western European languages.

    Returns
    -------
    images : ndarray of shape (n_texts, height, width, 3) or list of PIL.Image.Image
        The images, of type uint8 where an array.

    See Also
    --------
    VisionLanguageEncoder.encode_text : Renders texts and encodes them.

    Notes
    -----
    After CM-GLasso (Wang, Zhang & Wang, arXiv 2604.03953), which renders texts as
    images. Its fonts, sizes and prompts were not readable: the layout is ours.

    Examples
    --------
    >>> from skmm.vision import render_text
    >>> images = render_text(["red beak", "long tail"], size=64)
    >>> images.shape, images.dtype
    ((2, 64, 64, 3), dtype('uint8'))
    """
    texts = _check_texts(texts)
    height, width = _check_size(size)
    if output not in ("array", "pil"):
        raise ValueError(f"output: expected 'array' or 'pil', got {output!r}.")
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin: expected a share in [0, 0.5), got {margin!r}.")
    image_module = import_extra("PIL.Image", "render_text")
    fonts = _Fonts(font)
    free = (
        max(1, int(width * (1 - 2 * margin))),
        max(1, int(height * (1 - 2 * margin))),
    )
    images = []
    for text in texts:
        image = image_module.new("RGB", (width, height), background)
        _write(image, text, fonts, free, color)
        images.append(image)
    if output == "pil":
        return images
    return np.stack([np.asarray(image) for image in images])


def _check_texts(texts: Any) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"texts: expected strings, got {type(text).__name__} at {i}."
            )
    if not texts:
        raise ValueError("texts: expected at least one text, got none.")
    return texts


def _check_size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, Integral) else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, Integral) and s > 0 for s in sides):
        raise ValueError(
            f"size: expected a positive int, or two (height, width), got {size!r}."
        )
    return int(sides[0]), int(sides[1])


class _Fonts:
    """One font in the sizes that are asked for."""

    def __init__(self, path: Any):
        self.module = import_extra("PIL.ImageFont", "render_text")
        self.path = path
        self.sizes: dict[int, Any] = {}

    def __getitem__(self, size: int) -> Any:
        if size not in self.sizes:
            self.sizes[size] = self._load(size)
        return self.sizes[size]

    def _load(self, size: int) -> Any:
        if self.path is None:
            return self.module.load_default(size)
        try:
            return self.module.truetype(self.path, size)
        except OSError as error:
            raise ValueError(
                f"font: expected a TrueType or OpenType file, got {self.path!r}, which "
                f"cannot be read ({error}). Leave it out for Pillow's own."
            ) from error


def _write(
    image: "Image", text: str, fonts: _Fonts, free: tuple[int, int], color: Any
) -> None:
    """Find the largest size by bisection, then write."""
    draw = import_extra("PIL.ImageDraw", "render_text").Draw(image)
    low, high = SMALLEST, max(SMALLEST, min(LARGEST, max(free)))
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(draw, _wrap(draw, text, fonts[middle], free[0]), fonts[middle], free):
            low = middle
        else:
            high = middle - 1
    lines = _wrap(draw, text, fonts[low], free[0])
    left, top, right, bottom = _box(draw, lines, fonts[low])
    draw.multiline_text(
        ((image.width - left - right) / 2, (image.height - top - bottom) / 2),
        "\n".join(lines),
        fill=color,
        font=fonts[low],
        align="center",
        spacing=SPACING * low,
    )


def _box(draw: Any, lines: list[str], font: Any) -> tuple[float, float, float, float]:
    """What the lines cover: left, top, right, bottom."""
    return draw.multiline_textbbox(
        (0, 0), "\n".join(lines), font=font, align="center", spacing=SPACING * font.size
    )


def _fits(draw: Any, lines: list[str], font: Any, free: tuple[int, int]) -> bool:
    left, top, right, bottom = _box(draw, lines, font)
    return right - left <= free[0] and bottom - top <= free[1]


def _wrap(draw: Any, text: str, font: Any, width: int) -> list[str]:
    """Break lines between words where they would be wider."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if line and draw.textlength(longer, font=font) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines
