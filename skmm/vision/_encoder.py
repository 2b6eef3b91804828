"""Frozen vision towers of vision-language models, as a scikit-learn transformer."""

import functools
import math
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skmm._device import resolve_device
from skmm.vision._extra import import_extra
from skmm.vision._render import render_text

if TYPE_CHECKING:
    from PIL.Image import Image

USER = "VisionLanguageEncoder"


class VisionLanguageEncoder(TransformerMixin, BaseEstimator):
    """Patch features of images, and prototypes from text, by one frozen vision tower.

    The tower of a SigLIP or SigLIP 2 model (of `transformers`; other models with a
    vision transformer work too) turns an image into N vectors of size d, one a patch.
    Text goes the same way: it is rendered as an image, encoded by the same tower, and
    averaged over the patches, so that no text model is needed and both lie in one
    space. Nothing is trained.

    Parameters
    ----------
    model : str or path-like
        Name of a model on the Hugging Face hub, such as
        `"google/siglip2-base-patch16-224"`, or a folder with one.
    batch_size : int, default=32
        Images that go through the tower at a time.
    device : str or torch.device, default="auto"
        Where to compute; "auto" is CUDA if there is one, else the CPU.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        In which the tower computes. Features are float32 always.
    max_num_patches : int, default=None
        The most patches an image is cut into, for models of variable resolution
        (NaFlex). If None, as the model has it.

    Attributes
    ----------
    grid_ : tuple of int
        Rows and columns of patches, which lie row by row.
    n_patches_ : int
        Their number N.
    n_channels_ : int
        The size d of a feature.

    See Also
    --------
    CrossAttentionDistiller : Makes scores of nodes from patch features.
    render_text : Renders texts as images.

    Notes
    -----
    After CM-GLasso (Wang, Zhang & Wang, arXiv 2604.03953): SigLIP 2, and texts rendered
    as images and encoded by the vision tower, are from there. The body of the paper was
    not readable: which checkpoint, resolution, layer, font and prompts it uses is not
    known; here it is the last layer after its normalisation, and the mean over patches.

    Images are resized to one shape whatever theirs is, so that all have the same grid:
    the resolution of the model or, for NaFlex, the shape that the first image of fit
    gets from the model's own preprocessing, which keeps its proportions.

    Needs the extra `vision`: ``pip install "skmm[vision]"``. A model is downloaded on
    first use; set the environment variable HF_HUB_OFFLINE to 1 for models on disk
    only. Weights are read from safetensors files, and no code of a model's repository
    is run. The tower is no part of the estimator: a pickle holds the name in `model`,
    and the last two towers that were used stay in memory, for the clones that searches
    make.

    References
    ----------
    .. [1] F. Wang, Y. Zhang, X. Wang, "Multimodal Structure Learning: Disentangling
       Shared and Specific Topology via Cross-Modal Graphical Lasso", arXiv 2604.03953,
       2026.
    .. [2] M. Tschannen et al., "SigLIP 2: Multilingual Vision-Language Encoders with
       Improved Semantic Understanding, Localization, and Dense Features", arXiv
       2502.14786, 2025.

    Examples
    --------
    With a small tower of random weights, in place of a name on the hub:

    >>> import tempfile
    >>> import numpy as np
    >>> from transformers import SiglipImageProcessorPil
    >>> from transformers import SiglipVisionConfig, SiglipVisionModel
    >>> from skmm.vision import VisionLanguageEncoder
    >>> folder = tempfile.TemporaryDirectory()
    >>> config = SiglipVisionConfig(
    ...     hidden_size=16,
    ...     intermediate_size=16,
    ...     num_hidden_layers=1,
    ...     num_attention_heads=2,
    ...     image_size=32,
    ...     patch_size=8,
    ... )
    >>> SiglipVisionModel(config).save_pretrained(folder.name)
    >>> processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    >>> _ = processor.save_pretrained(folder.name)
    >>> images = np.random.default_rng(0).integers(256, size=(5, 40, 60, 3))
    >>> encoder = VisionLanguageEncoder(folder.name, device="cpu")
    >>> encoder.fit_transform(images.astype(np.uint8)).shape
    (5, 16, 16)
    >>> encoder.grid_
    (4, 4)
    >>> encoder.encode_text(["red beak", "long tail"]).shape
    (2, 16)
    >>> folder.cleanup()
    """

    _parameter_constraints = {
        "model": [str, os.PathLike],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "max_num_patches": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        model,
        *,
        batch_size=32,
        device="auto",
        dtype="float32",
        max_num_patches=None,
    ):
        self.model = model
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.max_num_patches = max_num_patches

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.no_validation = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Find into how many patches images are cut.

        Parameters
        ----------
        X : array-like of shape (n_images, height, width, 3), or list
            Images: an array of type uint8, or a list or array of Pillow's images, of
            arrays, or of paths. None is a missing image.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted encoder.
        """
        images = _Images(X)
        present = images.present
        if not len(present):
            raise ValueError("X: expected an image, got missing ones only.")
        tower = self._tower(fitting=True)
        features, self.grid_ = tower.encode([images[present[0]]])
        self.n_patches_, self.n_channels_ = features.shape[1:]
        return self

    def transform(self, X):
        """Encode images.

        Parameters
        ----------
        X : array-like of shape (n_images, height, width, 3), or list
            Images, as in `fit`.

        Returns
        -------
        features : ndarray of shape (n_images, n_patches, n_channels)
            Of type float32; NaN for a missing image.
        """
        check_is_fitted(self)
        images = _Images(X)
        tower = self._tower()
        shape = (len(images), self.n_patches_, self.n_channels_)
        features = np.full(shape, np.nan, dtype=np.float32)
        for rows in _batches(images.present, self.batch_size):
            features[rows] = tower.encode([images[i] for i in rows], self.grid_)[0]
        return features

    def encode_text(self, texts):
        """Encode texts as images of them, to be looked for in images.

        It does not depend on `fit`, and can be called before.

        Parameters
        ----------
        texts : str or iterable of str
            The texts.

        Returns
        -------
        prototypes : ndarray of shape (n_texts, n_channels)
            The mean over the patches of each text's image, of type float32.
        """
        self._validate_params()
        tower = self._tower()
        images = render_text(texts, tower.text_size, output="pil")
        means = [
            tower.encode([images[i] for i in rows])[0].mean(1)
            for rows in _batches(range(len(images)), self.batch_size)
        ]
        return np.concatenate(means)

    def set_output(self, *, transform=None):
        """Do nothing: patch features have three dimensions, and stay an array.

        It lets the steps of a Pipeline that come after make DataFrames.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            Ignored.

        Returns
        -------
        self : object
            The encoder.
        """
        return self

    def get_feature_names_out(self, input_features=None):
        """Names of the channels of a patch.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str of shape (n_channels,)
            `channel0`, `channel1`, ...
        """
        check_is_fitted(self)
        names = [f"channel{i}" for i in range(self.n_channels_)]
        return np.array(names, dtype=object)

    def _tower(self, *, fitting: bool = False) -> "_Tower":
        return _load(
            os.fspath(self.model),
            resolve_device(self.device, fitting=fitting),
            self.dtype,
            self.max_num_patches,
        )


# --- Images -----------------------------------------------------------------------


class _Images:
    """Images opened when they are asked for."""

    def __init__(self, X: Any):
        if isinstance(X, str | os.PathLike) or not hasattr(X, "__len__"):
            raise TypeError(
                "X: expected an array of images or a list of images or paths, got "
                f"{type(X).__name__}. Put a single one into a list."
            )
        if isinstance(X, np.ndarray) and X.dtype.kind not in "OUT":
            _check_pixels(X, "X", 4, "(n_images, height, width, 3)")
        elif hasattr(X, "to_list"):  # a Series of paths
            X = X.to_list()
        if not len(X):
            raise ValueError("X: expected at least one image, got none.")
        self.items = X
        self.present = [i for i, item in enumerate(X) if not _is_missing(item)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> "Image":
        module = import_extra("PIL.Image", USER)
        item = self.items[i]
        if isinstance(item, module.Image):
            return item.convert("RGB")
        if isinstance(item, str | os.PathLike):
            try:
                with module.open(item) as image:
                    return image.convert("RGB")
            except OSError as error:
                raise type(error)(
                    f"X: expected the path of an image at {i}, got "
                    f"{os.fspath(item)!r}, which cannot be read ({error})."
                ) from error
        if isinstance(item, np.ndarray):
            _check_pixels(item, f"X[{i}]", 3, "(height, width, 3)")
            return module.fromarray(np.ascontiguousarray(item))
        raise TypeError(
            f"X: expected arrays, Pillow's images or paths, got {type(item).__name__} "
            f"at {i}."
        )


def _is_missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _check_pixels(array: np.ndarray, name: str, ndim: int, shape: str) -> None:
    if array.ndim != ndim or array.shape[-1] != 3 or 0 in array.shape[:-1]:
        raise ValueError(
            f"{name}: expected shape {shape}, got {array.shape}. Repeat a single "
            "channel three times, and leave out transparency."
        )
    if array.dtype != np.uint8:
        raise TypeError(
            f"{name}: expected type uint8 with values from 0 to 255, got "
            f"{array.dtype}. Scale the images, then use astype('uint8')."
        )


def _batches(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


# --- The tower ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Tower:
    """A vision tower and the preprocessing of its images."""

    network: Any
    processor: Any
    name: str
    max_num_patches: int | None

    @property
    def flexible(self) -> bool:
        """Whether each image has a grid of its own (NaFlex)."""
        return hasattr(self.processor, "max_num_patches")

    @property
    def text_size(self) -> int:
        """Side of the image that a text is rendered into."""
        if self.flexible:
            most = self.max_num_patches or self.processor.max_num_patches
            return math.isqrt(most) * self.processor.patch_size
        return int(_side(getattr(self.network.config, "image_size", 224)))

    def encode(
        self, images: list["Image"], grid: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Features (n, N, d) and their grid.

        NaFlex takes the grid from the first image, or resizes all to `grid`.
        """
        options: dict[str, Any] = {}
        if self.flexible:
            if self.max_num_patches is not None:
                options["max_num_patches"] = self.max_num_patches
            if grid is not None:
                side = self.processor.patch_size
                shape = (grid[1] * side, grid[0] * side)  # Pillow: width first
                resample = self.processor.resample
                images = [image.resize(shape, resample) for image in images]
                options |= {"do_resize": False, "max_num_patches": grid[0] * grid[1]}
        inputs = self.processor(images=images, return_tensors="pt", **options)
        kind = next(self.network.parameters())
        inputs = {
            key: value.to(kind.device, kind.dtype)
            if value.is_floating_point()
            else value.to(kind.device)
            for key, value in inputs.items()
        }
        with torch.inference_mode():
            features = getattr(self.network(**inputs), "last_hidden_state", None)
        if self.flexible:
            grid = tuple(int(side) for side in inputs["spatial_shapes"][0])
        else:
            side = _side(getattr(self.network.config, "patch_size", 0)) or math.inf
            height, width = inputs["pixel_values"].shape[-2:]
            grid = (int(height // side), int(width // side))
        n_patches = grid[0] * grid[1]
        if (
            features is None
            or features.ndim != 3
            or not (0 < n_patches <= features.shape[1])
        ):
            raise ValueError(
                f"model: expected one with a feature for each patch, got "
                f"{self.name!r}, a {type(self.network).__name__}. Vision transformers "
                "have them."
            )
        if self.flexible:
            features = features[:, :n_patches]  # the rest is padding
        else:
            features = features[:, -n_patches:]  # class tokens come first
        return features.float().cpu().numpy(), grid


def _side(size: Any) -> Any:
    """The side of a size, which some models give as height and width."""
    return size if isinstance(size, Integral) else size[0]


@functools.lru_cache(maxsize=2)
def _load(
    name: str, device: torch.device, dtype: str, max_num_patches: int | None
) -> _Tower:
    """Load the vision tower of a model, and nothing else of it."""
    transformers = import_extra("transformers", USER)
    import_extra("PIL.Image", USER)
    with _quiet(transformers):
        config = _read(name, transformers.AutoConfig.from_pretrained, name)
        config = getattr(config, "vision_config", config)
        known = transformers.MODEL_MAPPING.get(type(config), None)
        if getattr(known, "main_input_name", None) != "pixel_values":
            raise ValueError(
                f"model: expected one that sees images, got {name!r}, whose type is "
                f"{config.model_type!r}. SigLIP and SigLIP 2 models do, such as "
                "'google/siglip2-base-patch16-224'."
            )
        processor = _read(
            name, transformers.AutoImageProcessor.from_pretrained, name, backend="pil"
        )
        # Safetensors only: reading other files may run code that is hidden in them.
        network, info = _read(
            name,
            known.from_pretrained,
            name,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise ValueError(
            f"model: expected weights for the whole vision tower, got {name!r}, which "
            f"lacks {len(info['missing_keys'])} of them, such as "
            f"{min(info['missing_keys'])!r}."
        )
    return _Tower(network.eval().to(device), processor, name, max_num_patches)


def _read(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers, and say what to do when it fails."""
    try:
        return function(*args, **kwargs)
    except OSError as error:
        raise OSError(
            f"model: expected the name of a model on the Hugging Face hub or a folder "
            f"with one, got {name!r}, which cannot be loaded ({error}). Check the "
            "spelling; without a network, or with HF_HUB_OFFLINE set, the model must "
            "be on disk."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"model: expected one that sees images, got {name!r}, which transformers "
            f"cannot use ({error})."
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Any:
    """No progress bars, and no report on the weights of the text model left out."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
