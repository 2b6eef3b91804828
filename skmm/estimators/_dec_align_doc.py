"""What the docstrings of the three DecAlign estimators have in common."""

# License: BSD-3-Clause

PARAMETERS = """
    modalities : "auto", None, list of int, mapping or callable, default="auto"
        Which columns belong together, see :ref:`modalities`. A `Modality` sets the
        shape of images and sequences, the likelihood (its `scale` is not used), and
        networks of your own.
    {own}
    n_components : int, default=64
        Width d of the unique and the common parts.
    encoder : str, class or dict, default="auto"
        Front end to tokens: "auto" is a multilayer perceptron (one token) for vectors
        and a convolutional net for images (a token a patch) and sequences; or
        "linear", "mlp", "conv", or a class called as ``encoder(shape, n_components)``
        that returns a torch module, whose output is ``(n, n_components)`` or ``(n,
        n_tokens, n_components)``; or a dict of these by modality name.
    decoder : str, class or dict, default="auto"
        Likewise, from both parts of a modality to its block: "linear", "mlp", "conv",
        or a class called as ``decoder(shape, 2 * n_components)``. Used where
        `reconstruction_weight` is not zero.
    hidden : "auto" or sequence of int, default="auto"
        Hidden layers of "mlp", whose output tanh bounds where there is a target;
        decoders have them in reverse. "auto" is (128,) with a target, (256,) without.
    activation : {"auto", "relu", "tanh", "gelu"}, default="auto"
        Of the hidden layers of "mlp". "auto" is "tanh" with a target, "gelu" without.
    dropout : "auto" or float, default="auto"
        Share of units dropped in training, in [0, 1). "auto" is 0.2, but 0 with a
        target where every modality is a vector.
    input_dropout : float, default=0.3
        Share of a vector's scaled values that training sets to zero, in [0, 1).
    kernel_size : int, default=9
        Width of the filters over time of a sequence; odd. They come in several
        dilations.
    n_tokens : int, default=8
        Segments of a sequence, a token each, which holds statistics of the filters in
        it.
    fusion : {"auto", "cross", "self", "none"}, default="auto"
        How unique parts are refined: by a transformer whose tokens attend to those of
        the other modalities, or to their own, or not at all. "auto" is "none" where
        every modality is a vector, which is one token, else "cross".
    n_heads : int, default=4
        Heads of attention; their greatest common divisor with `n_components` is used.
    n_layers : int, default=1
        Layers of each modality's transformer.
    modality_dropout : float, default=0.3
        Chance in training that a modality that is there is left out of the fusion;
        a row always keeps one.
    imputation : {"transport", "token"}, default="transport"
        What stands for an absent modality's unique part: what the transport plan
        makes of the row's other modalities, or a learnt vector.
    decoupling : {"squared", "plain"}, default="squared"
        Squared cosines of unique and common parts, least where they are orthogonal; or
        the paper's cosines, least where they are anti-parallel.
    decoupling_weight : float, default=1.0
        Weight of L_dec.
    heterogeneity_weight : float, default=0.05
        The paper's :math:`\\alpha`, of the transport between prototypes and the pull of
        rows to the prototypes of other modalities.
    homogeneity_weight : float, default=0.05
        The paper's :math:`\\beta`, of the moments and the discrepancy of common parts.
    reconstruction_weight : "auto" or float, default="auto"
        Weight of the error of blocks decoded from both parts. "auto" is 0.1 without
        a target, else 0, as in the paper.
    pair_weight : "auto" or float, default="auto"
        Weight of InfoNCE between the common parts of rows with several modalities
        (ours). "auto" is 1 without a target, else 0.
    pair_temperature : float, default=0.07
        Its temperature, on parts of unit length.
    match_rows : bool, default=True
        Whether, where `pair_weight` is not zero, rows with one modality alone are
        matched with rows of another one (ours): by an entropic plan between them that
        starts from the rows with both modalities, of which three are enough to start.
        Partners drawn from the plan count as pairs. It takes rows without a partner
        in X to be drawn from the same population as the others.
    contrastive_weight : float, default=0.0
        Weight of the supervised contrast of fused vectors: rows of one class, or whose
        real targets round to the same integer, near each other.
    contrastive_temperature : float, default=0.1
        Its temperature.
    n_prototypes : "auto" or int, default="auto"
        Prototypes K of each modality. "auto" is the number of classes, 8 without
        classes, and no more than the rows of the modality with the fewest.
    covariance : {"diag", "full"}, default="diag"
        Covariances of the prototypes.
    em : {"carried", "unrolled"}, default="carried"
        "carried" keeps mixtures from step to step and differentiates one step of
        moments; "unrolled" starts at rows of the batch and differentiates `em_iter`
        steps, as the published code does.
    em_iter : int, default=5
        Steps of EM in a batch: of each with "unrolled", else of the first.
    reg_covar : float, default=1e-3
        Added to variances, as a part of a modality's mean variance.
    prototype_match : {"observed", "plan", "index"}, default="observed"
        Which prototypes of other modalities a row is pulled to, and what stands for
        an absent modality: those that the plan matches with its own ("plan", ours);
        the same mixed with how often prototypes meet in rows that have both
        modalities, n of which (or weights of a sum of n) count n / (n + K^2)
        ("observed", ours); or
        those of the same number ("index", as in the paper).
    ot_reg : float, default=0.1
        Entropic regularisation :math:`\\lambda` of the transport.
    ot_reg_scale : {"mean_cost", "absolute"}, default="mean_cost"
        Whether `ot_reg` and `ot_rho` are in units of the mean cost, or absolute.
    ot_rho : float or None, default=None
        Weight of the divergence of relaxed marginals; None keeps them exactly. For
        modalities whose absence depends on the groups.
    ot_max_iter : int, default=200
        Most iterations of a step's transport.
    ot_tol : float, default=1e-6
        Largest error of a marginal.
    max_cells : int, default=20000
        Tuples of prototypes up to which the plan of all modalities is held; above, it
        goes through the atoms of a barycentre.
    moments : sequence of str, default=("mean", "covariance", "skewness")
        Which moments of the common parts are matched.
    distribution_encoder : {None, "shared", "separate"}, default=None
        Network through which distributions of common parts are compared. With one a
        modality, as in the published code, the loss can vanish while the parts stay
        apart.
    mmd_bandwidths : "auto", float or sequence of float, default="auto"
        Variances of the Gaussian kernels; "auto" has five around the mean squared
        distance.
    reduction : {"mean", "sum"}, default="mean"
        Whether distances and moments are averaged over dimensions (published code) or
        summed (paper).
    scale_free : bool, default=True
        Whether the alignment terms are in units of the parts' own spread, so that
        they can't fall by shrinking the parts. False takes them as they are, and
        `reg_covar` as absolute, as in the paper.
    output : {"fused", "common", "unique", "all"}, default="fused"
        What `transform` returns.
    keep_missing : bool, default=False
        Whether `transform` returns NaN for parts of absent modalities.
    lr : float, default=0.01
        Learning rate (AdamW).
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "cosine" takes the rate to zero over `max_epochs`.
    max_epochs : int, default=100
        Passes over the training rows.
    batch_size : int, default=256
        Rows a step, whose distributions are compared. A last batch under half this
        size is merged. Long sequences learn as much from fewer, smaller steps: 64
        rows and 15 epochs at a rate of 0.005, say.
    weight_decay : float, default=4.0
        Decoupled weight decay (AdamW) of an epoch, divided among its steps.
    clip_norm : float or None, default=5.0
        Largest norm of a step's gradient.
    early_stopping : bool, default=False
        Whether to hold rows out and keep the weights of the epoch with the lowest
        loss on them.
    validation_fraction : float, default=0.1
        Share of rows held out by early stopping.
    n_iter_no_change : int, default=10
        Epochs without a lower loss after which early stopping ends.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit.
    checkpoint_dir : str, path or None, default=None
        Folder where each epoch is saved, so that the same `fit` takes up a killed one.
        Needs an int `random_state`. The file is removed at the end.
    net_params : dict or None, default=None
        To `skorch.NeuralNet`, as ``{"optimizer": torch.optim.Adam}``.
    precision : {None, "bf16"}, default=None
        "bf16" trains in bfloat16 where torch's autocast does; float32 data only.
        None computes in the type of X.
    device : str or torch.device, default="auto"
        "auto" is the GPU if there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights, the batches, dropout and the held-out rows. The same int
        gives the same bits on the CPU.
    verbose : int, default=0
        1 prints a line an epoch."""

ATTRIBUTES = """
    modality_names_in_ : ndarray of shape (n_modalities,)
        Names of the modalities.
    modality_indices_ : dict of str to ndarray
        Columns of each modality.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, where X has string names.
    {own}
    prototypes_ : dict of str to dict
        Mixture of each modality's unique parts over the training rows: `weights` (K,),
        `means` (K, d) and `covariances` (K, d) or (K, d, d).
    n_prototypes_ : int
        K.
    transport_plan_ : ndarray of shape (K, ..., K) or None
        Mass of each tuple of prototypes, an axis a modality; None above `max_cells`
        and for one modality.
    matches_ : ndarray of shape (n_modalities, n_modalities, K, K)
        Shares :math:`T(k'|k)` of the prototypes of the second modality in those of
        the first.
    transport_cost_ : float
        Mean cost of the plan, in units of the parts' spread with `scale_free`.
    transport_residual_ : float
        Error of the plan's marginals.
    partners_ : dict of str to dict of str to dict
        What `match_rows` found between two modalities, by their names: `rows` of X
        with the first alone, the likeliest `partner` of each among those with the
        second alone, and its `share` in the plan.
    history_ : dict of str to list of float
        Mean of each term of the loss in each epoch, without weights.
    loss_curve_ : list of float
        Training loss of each epoch.
    validation_loss_curve_ : list of float
        Loss on the held-out rows (early stopping only).
    n_iter_ : int
        Epochs run."""


def documented(parameters: str, attributes: str):
    """Complete an estimator's docstring: ``{parameters}`` and ``{attributes}``.

    The estimator's own stand where ``{own}`` is.
    """

    def fill(cls: type) -> type:
        text = cls.__doc__
        for mark, shared, own in (
            ("{parameters}", PARAMETERS, parameters),
            ("{attributes}", ATTRIBUTES, attributes),
        ):
            text = text.replace(mark, shared.replace("{own}", own.strip()).strip())
        cls.__doc__ = text
        return cls

    return fill
