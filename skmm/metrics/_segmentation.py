"""Mean intersection over union of segmentations."""

from typing import Any

import numpy as np


def mean_iou(
    y_true: Any, y_pred: Any, *, labels: Any = None, ignore_index: Any = None
) -> float:
    r"""Mean over the classes of intersection over union.

    With the numbers of pixels that are in class c in both (:math:`I_c`), and in at
    least one of them (:math:`U_c`), counted over all images together,

    .. math:: \mathrm{mIoU} = \frac1{|C|} \sum_{c \in C} \frac{I_c}{U_c}.

    Parameters
    ----------
    y_true : array-like of any shape
        True class of each pixel: of one image (height, width), of several (n_images,
        height, width), or flat.
    y_pred : array-like of the same shape
        Predicted classes.
    labels : array-like of shape (n_classes,), default=None
        The classes C. If None, those that occur in `y_true` or `y_pred`. A class that
        occurs in neither has no union, and is left out of the mean.
    ignore_index : int or str, default=None
        Pixels with this true label do not count, whatever is predicted there, and it
        is no class.

    Returns
    -------
    mean_iou : float
        Between 0 and 1; NaN if no class occurs.

    Raises
    ------
    ValueError
        If shapes differ, or labels are NaN or are repeated.

    See Also
    --------
    sklearn.metrics.jaccard_score : The same for one list of labels; slower for images,
        and with a choice of averages.

    Notes
    -----
    Intersections and unions are summed over the images before they are divided, as
    benchmarks of semantic segmentation do; the mean of the scores of single images is
    another number. As a scorer it is ``make_scorer(mean_iou)``.

    Examples
    --------
    >>> from skmm.metrics import mean_iou
    >>> y_true = [[0, 0, 1], [0, 1, 255]]
    >>> y_pred = [[0, 1, 1], [0, 1, 0]]
    >>> round(mean_iou(y_true, y_pred, ignore_index=255), 3)
    0.667
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"y_pred: expected the shape of y_true, {y_true.shape}, got "
            f"{y_pred.shape}. Resize the prediction first, without mixing labels."
        )
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ValueError(
                f"{name}: expected labels, got NaN. Mark pixels that do not count with "
                "a label of their own, and pass it as ignore_index."
            )
    y_true, y_pred = y_true.ravel(), y_pred.ravel()
    if ignore_index is not None:
        counted = y_true != ignore_index
        y_true, y_pred = y_true[counted], y_pred[counted]
    # One number a label, those that occur; then counts of pairs.
    names, codes = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
    true, predicted = np.split(codes.ravel(), 2)
    n = len(names)
    pairs = np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)
    intersection = pairs.diagonal()
    union = pairs.sum(0) + pairs.sum(1) - intersection
    if labels is None:
        chosen = np.ones(n, dtype=bool)
    else:
        labels = np.asarray(labels).ravel()
        if len(np.unique(labels)) < len(labels):
            raise ValueError("labels: expected each class once, got some repeated.")
        chosen = np.isin(names, labels)
    if ignore_index is not None:
        chosen &= names != ignore_index
    if not chosen.any():
        return float("nan")
    return float(np.mean(intersection[chosen] / union[chosen]))
