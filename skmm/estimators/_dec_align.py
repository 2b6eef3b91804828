"""DecAlign as a transformer, a classifier and a regressor."""

# License: BSD-3-Clause

import numpy as np
import torch
from sklearn.base import (
    RegressorMixin,
    _fit_context,
)
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from skmm.estimators._base import class_factors
from skmm.estimators._dec_align_base import DecAlignBase
from skmm.estimators._dec_align_doc import documented
from skmm.estimators._gradient import LogProbaMixin
from skmm.modalities import validate_input


@documented(
    """target : {"auto", "none", "class", "real"}, default="auto"
        What y is: "auto" decides from y itself (see `target_`), "none" does not look
        at it.
    target_loss : {"squared_error", "absolute_error"}, default="squared_error"
        Loss of real targets, in units of their standard deviation.
    unlabeled : object, default=None
        The class label of rows without one, not NaN; they have a part in all terms
        but the task's. None: every label is a class.""",
    """target_ : {"none", "class", "real"}
        What the target was taken for.
    classes_ : ndarray of shape (n_classes,)
        Labels, where the target is a class.""",
)
class DecAlignTransformer(DecAlignBase):
    r"""Decoupled and aligned representations of several modalities.

    Each modality becomes tokens of one width; these a *unique* part s by an encoder of
    its own and a *common* part c by one encoder for all. `fit` minimises

    .. math::

        L = L_{task} + \gamma L_{dec} + \alpha (L_{OT} + L_{Proto})
            + \beta (L_{sem} + L_{MMD}) + \rho L_{rec} + \pi L_{pair}
            + \kappa L_{con},

    where :math:`L_{dec}` is the squared cosine of s and c; :math:`L_{OT}` the entropic
    cost of a transport plan between Gaussian prototypes of all modalities' s;
    :math:`L_{Proto}` the distance of rows to the prototypes of other modalities that
    the plan matches with theirs; :math:`L_{sem}` and :math:`L_{MMD}` the differences of
    mean, covariance and skewness and the maximum mean discrepancy of c between
    modalities; :math:`L_{task}` the cross-entropy or squared error of a linear head on
    the fused vector, where there is a target, and :math:`L_{rec}` the error of the
    blocks decoded from both parts, where there is none. The alignment terms compare
    distributions, so rows need not have all modalities, and prediction takes a row
    at a time.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    DecAlignClassifier : The same with the head's predictions of classes.
    DecAlignRegressor : The same with those of real targets.
    DCMEMEncoder : Shared and private codes that also generate.
    skmm.core.transport.multi_marginal_sinkhorn : The transport alone.

    Notes
    -----
    The paper always has a target; what is fitted without one (reconstruction, pairs),
    plan-matched prototypes, the carried mixtures, several bandwidths, `scale_free`, and
    all that concerns missing modalities are ours. `from_preset` has the variants of the
    paper and of its published code.

    A fit costs, per step of N rows, the networks, O(N^2 M^2 d) for the discrepancy
    and the plan's K^M cells a sweep.

    References
    ----------
    Chengxuan Qian, Shuo Xing, Shawn Li, Yue Zhao, Zhengzhong Tu. "DecAlign:
    Hierarchical Cross-Modal Alignment for Decoupled Multimodal Representation
    Learning". ICLR 2026, arXiv:2503.11892.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import DecAlignTransformer
    >>> from skmm.datasets import load_mfeat
    >>> X, y = load_mfeat(views=("fou", "zer"), return_X_y=True)
    >>> X[::3, :76] = np.nan  # every third row lacks the Fourier coefficients
    >>> decalign = DecAlignTransformer([76, 47], max_epochs=3, random_state=0).fit(X)
    >>> decalign.transform(X).shape
    (2000, 256)
    >>> decalign.set_params(output="common").transform(X).shape
    (2000, 64)
    >>> decalign.target_
    'none'
    """

    _parameter_constraints: dict = {
        **DecAlignBase._decalign_constraints,
        "target": [StrOptions({"auto", "none", "class", "real"})],
        "target_loss": [StrOptions({"squared_error", "absolute_error"})],
        "unlabeled": "no_validation",
    }

    def __init__(
        self,
        modalities="auto",
        *,
        target="auto",
        target_loss="squared_error",
        unlabeled=None,
        n_components=64,
        encoder="auto",
        decoder="auto",
        hidden="auto",
        activation="auto",
        dropout="auto",
        input_dropout=0.3,
        kernel_size=9,
        n_tokens=8,
        fusion="auto",
        n_heads=4,
        n_layers=1,
        modality_dropout=0.3,
        imputation="transport",
        decoupling="squared",
        decoupling_weight=1.0,
        heterogeneity_weight=0.05,
        homogeneity_weight=0.05,
        reconstruction_weight="auto",
        pair_weight="auto",
        pair_temperature=0.07,
        match_rows=True,
        contrastive_weight=0.0,
        contrastive_temperature=0.1,
        n_prototypes="auto",
        covariance="diag",
        em="carried",
        em_iter=5,
        reg_covar=1e-3,
        prototype_match="observed",
        ot_reg=0.1,
        ot_reg_scale="mean_cost",
        ot_rho=None,
        ot_max_iter=200,
        ot_tol=1e-6,
        max_cells=20_000,
        moments=("mean", "covariance", "skewness"),
        distribution_encoder=None,
        mmd_bandwidths="auto",
        reduction="mean",
        scale_free=True,
        output="fused",
        keep_missing=False,
        lr=1e-2,
        lr_schedule="cosine",
        max_epochs=100,
        batch_size=256,
        weight_decay=4.0,
        clip_norm=5.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint_dir=None,
        net_params=None,
        precision=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            modalities,
            n_components=n_components,
            encoder=encoder,
            decoder=decoder,
            hidden=hidden,
            activation=activation,
            dropout=dropout,
            input_dropout=input_dropout,
            kernel_size=kernel_size,
            n_tokens=n_tokens,
            fusion=fusion,
            n_heads=n_heads,
            n_layers=n_layers,
            modality_dropout=modality_dropout,
            imputation=imputation,
            decoupling=decoupling,
            decoupling_weight=decoupling_weight,
            heterogeneity_weight=heterogeneity_weight,
            homogeneity_weight=homogeneity_weight,
            reconstruction_weight=reconstruction_weight,
            pair_weight=pair_weight,
            pair_temperature=pair_temperature,
            match_rows=match_rows,
            contrastive_weight=contrastive_weight,
            contrastive_temperature=contrastive_temperature,
            n_prototypes=n_prototypes,
            covariance=covariance,
            em=em,
            em_iter=em_iter,
            reg_covar=reg_covar,
            prototype_match=prototype_match,
            ot_reg=ot_reg,
            ot_reg_scale=ot_reg_scale,
            ot_rho=ot_rho,
            ot_max_iter=ot_max_iter,
            ot_tol=ot_tol,
            max_cells=max_cells,
            moments=moments,
            distribution_encoder=distribution_encoder,
            mmd_bandwidths=mmd_bandwidths,
            reduction=reduction,
            scale_free=scale_free,
            output=output,
            keep_missing=keep_missing,
            lr=lr,
            lr_schedule=lr_schedule,
            max_epochs=max_epochs,
            batch_size=batch_size,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            checkpoint_dir=checkpoint_dir,
            net_params=net_params,
            precision=precision,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.target = target
        self.target_loss = target_loss
        self.unlabeled = unlabeled

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Train on X, and on y if `target` says so.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side; a missing modality of a row is an all-NaN
            block.
        y : array-like of shape (n_samples,), default=None
            Class labels, real values, or nothing.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights. Of vectors, in full batch (``batch_size >=
            n_samples``) and without any dropout, equal to repeating rows, where no
            modality has more than 128 (of which the discrepancy is taken) and
            ``em="carried"``. `match_rows` does not weigh.

        Returns
        -------
        self : DecAlignTransformer
            Fitted estimator.

        Raises
        ------
        ValueError
            If X has infinities, a modality is never observed, or y does not fit
            `target`.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, *, reset):
        # A target that is not used is not looked at.
        return super()._validated(X, None if self.target == "none" else y, reset=reset)

    @property
    def _absolute(self):
        return self.target_loss == "absolute_error"

    def _targets(self, y, weight, *, go_on):
        kind = self.target
        if kind == "auto":
            kind = "none" if y is None else _kind_of(y)
        elif kind != "none" and y is None:
            raise ValueError(
                f"y: expected a target for target={kind!r}, got None. Pass y, or use "
                "target='none'."
            )
        if not go_on:
            self.target_ = kind
            for name in ("classes_", "_target_mean", "_target_scale"):
                vars(self).pop(name, None)
        elif kind != self.target_:
            raise ValueError(
                f"y: can't change from {self.target_!r} to {kind!r} while training "
                "goes on from the last fit. Fit anew: warm_start=False."
            )
        if kind == "class":
            return kind, _codes(self, y, self.unlabeled, go_on=go_on, least=1)
        if kind == "real":
            if self.unlabeled is not None:
                raise ValueError(
                    "unlabeled: expected None for a real target, got "
                    f"{self.unlabeled!r}. Leave rows without a target out."
                )
            return kind, _standardised(self, y, weight, go_on=go_on)
        return kind, None


@documented(
    """class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the task's loss.
    unlabeled : object, default=None
        The label of rows without one, not NaN; they have a part in all terms but the
        task's. None: every label is a class.""",
    """classes_ : ndarray of shape (n_classes,)
        Labels.""",
)
class DecAlignClassifier(LogProbaMixin, DecAlignBase):
    """Classification from decoupled and aligned representations.

    `DecAlignTransformer` with class labels, and the predictions of its head: a linear
    map of the fused vector, trained by cross-entropy. `transform` gives the
    representation.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    DecAlignTransformer : The method and what is ours in it.
    TCMaxClassifier : Classification that makes the most of every modality.

    References
    ----------
    Chengxuan Qian, Shuo Xing, Shawn Li, Yue Zhao, Zhengzhong Tu. "DecAlign:
    Hierarchical Cross-Modal Alignment for Decoupled Multimodal Representation
    Learning". ICLR 2026, arXiv:2503.11892.

    Examples
    --------
    >>> from skmm import DecAlignClassifier
    >>> from skmm.datasets import load_mfeat
    >>> X, y = load_mfeat(views=("fou", "zer"), return_X_y=True)
    >>> model = DecAlignClassifier([76, 47], max_epochs=5, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.8)
    True
    """

    _parameter_constraints: dict = {
        **DecAlignBase._decalign_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "unlabeled": "no_validation",
    }

    def __init__(
        self,
        modalities="auto",
        *,
        class_weight=None,
        unlabeled=None,
        n_components=64,
        encoder="auto",
        decoder="auto",
        hidden="auto",
        activation="auto",
        dropout="auto",
        input_dropout=0.3,
        kernel_size=9,
        n_tokens=8,
        fusion="auto",
        n_heads=4,
        n_layers=1,
        modality_dropout=0.3,
        imputation="transport",
        decoupling="squared",
        decoupling_weight=1.0,
        heterogeneity_weight=0.05,
        homogeneity_weight=0.05,
        reconstruction_weight="auto",
        pair_weight="auto",
        pair_temperature=0.07,
        match_rows=True,
        contrastive_weight=0.0,
        contrastive_temperature=0.1,
        n_prototypes="auto",
        covariance="diag",
        em="carried",
        em_iter=5,
        reg_covar=1e-3,
        prototype_match="observed",
        ot_reg=0.1,
        ot_reg_scale="mean_cost",
        ot_rho=None,
        ot_max_iter=200,
        ot_tol=1e-6,
        max_cells=20_000,
        moments=("mean", "covariance", "skewness"),
        distribution_encoder=None,
        mmd_bandwidths="auto",
        reduction="mean",
        scale_free=True,
        output="fused",
        keep_missing=False,
        lr=1e-2,
        lr_schedule="cosine",
        max_epochs=100,
        batch_size=256,
        weight_decay=4.0,
        clip_norm=5.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint_dir=None,
        net_params=None,
        precision=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            modalities,
            n_components=n_components,
            encoder=encoder,
            decoder=decoder,
            hidden=hidden,
            activation=activation,
            dropout=dropout,
            input_dropout=input_dropout,
            kernel_size=kernel_size,
            n_tokens=n_tokens,
            fusion=fusion,
            n_heads=n_heads,
            n_layers=n_layers,
            modality_dropout=modality_dropout,
            imputation=imputation,
            decoupling=decoupling,
            decoupling_weight=decoupling_weight,
            heterogeneity_weight=heterogeneity_weight,
            homogeneity_weight=homogeneity_weight,
            reconstruction_weight=reconstruction_weight,
            pair_weight=pair_weight,
            pair_temperature=pair_temperature,
            match_rows=match_rows,
            contrastive_weight=contrastive_weight,
            contrastive_temperature=contrastive_temperature,
            n_prototypes=n_prototypes,
            covariance=covariance,
            em=em,
            em_iter=em_iter,
            reg_covar=reg_covar,
            prototype_match=prototype_match,
            ot_reg=ot_reg,
            ot_reg_scale=ot_reg_scale,
            ot_rho=ot_rho,
            ot_max_iter=ot_max_iter,
            ot_tol=ot_tol,
            max_cells=max_cells,
            moments=moments,
            distribution_encoder=distribution_encoder,
            mmd_bandwidths=mmd_bandwidths,
            reduction=reduction,
            scale_free=scale_free,
            output=output,
            keep_missing=keep_missing,
            lr=lr,
            lr_schedule=lr_schedule,
            max_epochs=max_epochs,
            batch_size=batch_size,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            checkpoint_dir=checkpoint_dir,
            net_params=net_params,
            precision=precision,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight
        self.unlabeled = unlabeled

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train on X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side; a missing modality of a row is an all-NaN
            block.
        y : array-like of shape (n_samples,)
            Class labels, `unlabeled` where there is none.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights. Of vectors, in full batch (``batch_size >=
            n_samples``) and without any dropout, equal to repeating rows, where no
            modality has more than 128 (of which the discrepancy is taken) and
            ``em="carried"``. `match_rows` does not weigh.

        Returns
        -------
        self : DecAlignClassifier
            Fitted estimator.

        Raises
        ------
        ValueError
            If y has one class, X has infinities, or a modality is never observed.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, *, reset):
        return validate_input(self, X, y=y, reset=reset)

    def _targets(self, y, weight, *, go_on):
        return "class", _codes(self, y, self.unlabeled, go_on=go_on, least=2)

    def _class_weights(self, codes, weight):
        if self.class_weight is None:
            return None
        weight = np.ones(len(codes)) if weight is None else weight
        return class_factors(self.class_weight, self.classes_, codes, weight)

    def _log_proba(self, X) -> np.ndarray:
        return self._of_parts(
            self._checked(X),
            lambda network, parts: torch.log_softmax(parts.output, 1),
        )


@documented(
    """loss : {"squared_error", "absolute_error"}, default="squared_error"
        Loss of the task, in units of the targets' standard deviation.""",
    "",
)
class DecAlignRegressor(RegressorMixin, DecAlignBase):
    """Regression from decoupled and aligned representations.

    `DecAlignTransformer` with real targets, and the predictions of its head: a linear
    map of the fused vector. `transform` gives the representation.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    DecAlignTransformer : The method and what is ours in it.
    skmm.metrics.sentiment_scores : Scores of the benchmarks that the paper reports.

    References
    ----------
    Chengxuan Qian, Shuo Xing, Shawn Li, Yue Zhao, Zhengzhong Tu. "DecAlign:
    Hierarchical Cross-Modal Alignment for Decoupled Multimodal Representation
    Learning". ICLR 2026, arXiv:2503.11892.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import DecAlignRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 8))
    >>> y = X[:, 0] + X[:, 4]
    >>> model = DecAlignRegressor([4, 4], random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.8)
    True
    """

    _parameter_constraints: dict = {
        **DecAlignBase._decalign_constraints,
        "loss": [StrOptions({"squared_error", "absolute_error"})],
    }

    def __init__(
        self,
        modalities="auto",
        *,
        loss="squared_error",
        n_components=64,
        encoder="auto",
        decoder="auto",
        hidden="auto",
        activation="auto",
        dropout="auto",
        input_dropout=0.3,
        kernel_size=9,
        n_tokens=8,
        fusion="auto",
        n_heads=4,
        n_layers=1,
        modality_dropout=0.3,
        imputation="transport",
        decoupling="squared",
        decoupling_weight=1.0,
        heterogeneity_weight=0.05,
        homogeneity_weight=0.05,
        reconstruction_weight="auto",
        pair_weight="auto",
        pair_temperature=0.07,
        match_rows=True,
        contrastive_weight=0.0,
        contrastive_temperature=0.1,
        n_prototypes="auto",
        covariance="diag",
        em="carried",
        em_iter=5,
        reg_covar=1e-3,
        prototype_match="observed",
        ot_reg=0.1,
        ot_reg_scale="mean_cost",
        ot_rho=None,
        ot_max_iter=200,
        ot_tol=1e-6,
        max_cells=20_000,
        moments=("mean", "covariance", "skewness"),
        distribution_encoder=None,
        mmd_bandwidths="auto",
        reduction="mean",
        scale_free=True,
        output="fused",
        keep_missing=False,
        lr=1e-2,
        lr_schedule="cosine",
        max_epochs=100,
        batch_size=256,
        weight_decay=4.0,
        clip_norm=5.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint_dir=None,
        net_params=None,
        precision=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            modalities,
            n_components=n_components,
            encoder=encoder,
            decoder=decoder,
            hidden=hidden,
            activation=activation,
            dropout=dropout,
            input_dropout=input_dropout,
            kernel_size=kernel_size,
            n_tokens=n_tokens,
            fusion=fusion,
            n_heads=n_heads,
            n_layers=n_layers,
            modality_dropout=modality_dropout,
            imputation=imputation,
            decoupling=decoupling,
            decoupling_weight=decoupling_weight,
            heterogeneity_weight=heterogeneity_weight,
            homogeneity_weight=homogeneity_weight,
            reconstruction_weight=reconstruction_weight,
            pair_weight=pair_weight,
            pair_temperature=pair_temperature,
            match_rows=match_rows,
            contrastive_weight=contrastive_weight,
            contrastive_temperature=contrastive_temperature,
            n_prototypes=n_prototypes,
            covariance=covariance,
            em=em,
            em_iter=em_iter,
            reg_covar=reg_covar,
            prototype_match=prototype_match,
            ot_reg=ot_reg,
            ot_reg_scale=ot_reg_scale,
            ot_rho=ot_rho,
            ot_max_iter=ot_max_iter,
            ot_tol=ot_tol,
            max_cells=max_cells,
            moments=moments,
            distribution_encoder=distribution_encoder,
            mmd_bandwidths=mmd_bandwidths,
            reduction=reduction,
            scale_free=scale_free,
            output=output,
            keep_missing=keep_missing,
            lr=lr,
            lr_schedule=lr_schedule,
            max_epochs=max_epochs,
            batch_size=batch_size,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            checkpoint_dir=checkpoint_dir,
            net_params=net_params,
            precision=precision,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.loss = loss

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train on X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side; a missing modality of a row is an all-NaN
            block.
        y : array-like of shape (n_samples,)
            Real values; they are standardised inside.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights. Of vectors, in full batch (``batch_size >=
            n_samples``) and without any dropout, equal to repeating rows, where no
            modality has more than 128 (of which the discrepancy is taken) and
            ``em="carried"``. `match_rows` does not weigh.

        Returns
        -------
        self : DecAlignRegressor
            Fitted estimator.

        Raises
        ------
        ValueError
            If X or y has infinities, or a modality is never observed.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, *, reset):
        return validate_input(self, X, y=y, reset=reset, y_numeric=True)

    @property
    def _absolute(self):
        return self.loss == "absolute_error"

    def _targets(self, y, weight, *, go_on):
        return "real", _standardised(self, y, weight, go_on=go_on)

    def predict(self, X):
        """Expected targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            In the units of the training targets.
        """
        values = self._of_parts(
            self._checked(X), lambda network, parts: parts.output.squeeze(1)
        )
        return self._target_mean + self._target_scale * values


def _kind_of(y) -> str:
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    return "real" if kind == "continuous" else "class"


def _codes(estimator, y, unlabeled, *, go_on: bool, least: int) -> np.ndarray:
    """Labels as codes, -1 where there is none; sets `classes_` at a first fit."""
    y = np.asarray(y)
    is_open = np.zeros(len(y), dtype=bool)
    if unlabeled is not None:
        is_open = np.asarray(y == unlabeled)
    known = y[~is_open]
    if len(known):
        check_classification_targets(known)
    if not go_on:
        estimator.classes_ = np.unique(known)
    classes = estimator.classes_
    if len(classes) < least:
        raise ValueError(
            f"y: expected labels of at least {least} classes, got one class only, or "
            f"none: {classes.tolist()}. There is nothing to learn."
        )
    unknown = np.setdiff1d(known, classes)
    if len(unknown):
        raise ValueError(
            f"y: expected labels among the classes {classes.tolist()}, got "
            f"{unknown.tolist()}. Fit anew: warm_start=False."
        )
    codes = np.full(len(y), -1)
    codes[~is_open] = np.searchsorted(classes, known)
    return codes


def _standardised(estimator, y, weight, *, go_on: bool) -> np.ndarray:
    """Real targets with mean 0 and variance 1."""
    y = column_or_1d(y, dtype=np.float64)
    if not np.isfinite(y).all():
        raise ValueError("y: expected finite numbers, got NaN or infinity.")
    if not go_on:
        estimator._target_mean = np.average(y, weights=weight)
        spread = np.average((y - estimator._target_mean) ** 2, weights=weight)
        estimator._target_scale = np.sqrt(spread) if spread > 0 else 1.0
    return (y - estimator._target_mean) / estimator._target_scale
