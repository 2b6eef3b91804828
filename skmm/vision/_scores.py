"""Node scores that carry the prior of their nodes along."""

from typing import Any

import numpy as np


class NodeScores(np.ndarray):
    """Scores of semantic nodes, with the prior strength of each pair of nodes.

    An array (n_samples, n_nodes) like any other, with an attribute `prior`. Rows can
    be taken in every way that numpy knows, copied and pickled, and the prior stays;
    that is all that splitters and searches do. A subset of the columns takes the rows
    and columns of the prior with it. Where the columns of a result cannot be told
    (arithmetic, transposition, concatenation) its `prior` is None: a missing prior is
    noticed, one of other nodes is not.

    Parameters
    ----------
    scores : array-like of shape (n_samples, n_nodes)
        One score a sample and node.
    prior : array-like of shape (n_nodes, n_nodes), default=None
        Prior strengths in [0, 1], symmetric.

    Attributes
    ----------
    prior : ndarray of shape (n_nodes, n_nodes) or None
        The prior.

    See Also
    --------
    CrossAttentionDistiller : Makes them.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.vision import NodeScores
    >>> prior = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]])
    >>> X = NodeScores(np.arange(12.0).reshape(4, 3), prior=prior)
    >>> X[[0, 2]].prior is X.prior
    True
    >>> X[:, [2, 1]].prior
    array([[1. , 0.2],
           [0.2, 1. ]])
    >>> print((2 * X).prior)
    None
    """

    prior: np.ndarray | None

    def __new__(cls, scores: Any, prior: Any = None) -> "NodeScores":
        """Make a view of `scores`, with a prior."""
        new = np.asarray(scores).view(cls)
        if new.ndim != 2:
            raise ValueError(
                f"scores: expected 2 dimensions (n_samples, n_nodes), got {new.ndim}."
            )
        if prior is not None:
            prior = np.asarray(prior)
            if prior.shape != (new.shape[1],) * 2:
                raise ValueError(
                    f"prior: expected shape {(new.shape[1],) * 2}, one row and column "
                    f"a node, got {prior.shape}."
                )
        new.prior = prior
        return new

    def __array_finalize__(self, source: Any) -> None:
        # Which columns a view has cannot be told here; what can tell sets it after.
        self.prior = None

    def _with_prior(self, prior: np.ndarray | None) -> "NodeScores":
        self.prior = prior
        return self

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        if isinstance(taken, NodeScores) and self.prior is not None:
            taken.prior = _prior_of(self, taken, key)
        return taken

    def copy(self, order: Any = "C") -> "NodeScores":
        """Copy scores and prior.

        Parameters
        ----------
        order : {"C", "F", "A", "K"}, default="C"
            As for any array.

        Returns
        -------
        copy : NodeScores
            The copy.
        """
        prior = None if self.prior is None else self.prior.copy()
        return super().copy(order)._with_prior(prior)

    def __copy__(self) -> "NodeScores":
        return super().__copy__()._with_prior(self.prior)

    def __deepcopy__(self, memo: Any) -> "NodeScores":
        prior = None if self.prior is None else self.prior.copy()
        return super().__deepcopy__(memo)._with_prior(prior)

    def astype(self, dtype: Any, **params: Any) -> Any:
        """Convert the scores; the prior stays as it is.

        Parameters
        ----------
        dtype : dtype
            The new type.
        **params : dict
            As for any array.

        Returns
        -------
        converted : NodeScores
            The scores in the new type.
        """
        converted = super().astype(dtype, **params)
        if isinstance(converted, NodeScores) and converted is not self:
            converted.prior = self.prior
        return converted

    def __reduce__(self) -> Any:
        rebuild, arguments, state = super().__reduce__()
        return rebuild, arguments, (state, self.prior)

    def __setstate__(self, state: Any) -> None:
        array, prior = state
        super().__setstate__(array)
        self.prior = prior


def _prior_of(whole: NodeScores, taken: NodeScores, key: Any) -> np.ndarray | None:
    """The prior of `taken = whole[key]`; None where its columns cannot be told."""
    prior = whole.prior
    if prior is None or whole.ndim != 2 or taken.ndim != 2:
        return None
    parts = key if isinstance(key, tuple) else (key,)
    if any(part is None for part in parts):
        return None
    if any(part is Ellipsis for part in parts):
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        filled = (slice(None),) * (2 - (len(parts) - 1))
        parts = (*parts[:place], *filled, *parts[place + 1 :])
    if len(parts) == 1:
        return prior if np.ndim(parts[0]) < 2 else None
    if len(parts) != 2:
        return None
    rows, columns = parts
    if not isinstance(columns, slice):
        columns = np.asarray(columns)
        if columns.ndim == 2 and columns.shape[0] == 1:  # numpy.ix_
            columns = columns[0]
        elif not isinstance(rows, slice):
            return None
        if columns.ndim != 1:
            return None
    elif not isinstance(rows, slice) and np.ndim(rows) > 1:
        return None
    if isinstance(columns, slice) and columns == slice(None):
        return prior
    part = prior[columns][:, columns]
    return part if len(part) == taken.shape[1] else None
