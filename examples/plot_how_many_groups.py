"""
How many groups do the modalities support?
==========================================

:class:`~skmm.DPMixtureFusion` clusters rows without being told the number of groups,
and takes rows that lack modalities as they are. Here six groups are planted so that no
modality by itself can tell them all apart. How many are found, and by which modality?
The reference is scikit-learn's :class:`~sklearn.mixture.BayesianGaussianMixture`, which
needs missing cells filled in first.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import DPMixtureFusion
from skmm.datasets import drop_modalities
from skmm.plotting import MixtureDisplay

# %%
# Six groups, of which each modality sees fewer
# ---------------------------------------------
#
# The image tells three pairs of groups apart, the text odd from even groups, the audio
# four sets. Only together they say which of the six it is. Noise has unit variance, and
# centres that differ are six or more apart, so what a modality can tell, it tells with
# hardly an error.

n_rows, n_groups, distance = 1200, 6, 6
modalities = {"image": slice(0, 4), "text": slice(4, 8), "audio": slice(8, 12)}
seen_by = {
    "image": [0, 0, 1, 1, 2, 2],
    "text": [0, 1, 0, 1, 0, 1],
    "audio": [0, 1, 2, 3, 3, 3],
}
centres = np.hstack([distance * np.eye(4)[codes] for codes in seen_by.values()])


def sample(seed):
    """Rows and their groups."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_groups, size=n_rows)
    return centres[y] + rng.normal(size=(n_rows, centres.shape[1])), y


def count(labels):
    """Groups that have at least one row in a hundred."""
    return int((np.bincount(labels) >= len(labels) / 100).sum())


X, y = sample(0)
for name, columns in modalities.items():
    alone = DPMixtureFusion([4], n_init=1, random_state=0).fit(X[:, columns])
    print(f"{name} alone: {count(alone.labels_)} groups")
together = DPMixtureFusion(modalities, n_init=1, random_state=0).fit(X)
print(f"together:    {count(together.labels_)} groups")

# %%
# With more and more blocks missing
# ---------------------------------
#
# Every model may use up to 30 components. The reference gets the columns standardised
# and missing cells filled by means, once with full covariances, its default, and once
# with diagonal ones, which are true of these data. `DPMixtureFusion` keeps its
# defaults, but for one start instead of five.
#
# A row that lacks modalities cannot always be assigned rightly: text alone leaves three
# groups open. The dashed line is what the best assignment reaches that knows the
# centres.


def imputed(covariance_type, seed):
    """The reference."""
    return make_pipeline(
        SimpleImputer(),
        StandardScaler(),
        BayesianGaussianMixture(
            n_components=30,
            covariance_type=covariance_type,
            max_iter=1000,
            random_state=seed,
        ),
    )


def knowing_the_centres(X):
    """The nearest centre, in the columns that a row has."""
    return np.nansum((X[:, None] - centres) ** 2, axis=2).argmin(axis=1)


shares = [0.0, 0.1, 0.2, 0.3]
seeds = range(3)
models = {
    "DPMixtureFusion": lambda seed: DPMixtureFusion(
        modalities, n_init=1, random_state=seed
    ),
    "means imputed, full": lambda seed: imputed("full", seed),
    "means imputed, diagonal": lambda seed: imputed("diag", seed),
}
found = {name: np.zeros((len(seeds), len(shares))) for name in models}
agreement = {name: np.zeros((len(seeds), len(shares))) for name in models}
best = np.zeros((len(seeds), len(shares)))
for i, seed in enumerate(seeds):
    complete, y = sample(seed)
    for j, share in enumerate(shares):
        X = drop_modalities(complete, modalities, share, random_state=seed)
        best[i, j] = adjusted_rand_score(y, knowing_the_centres(X))
        for name, make in models.items():
            labels = make(seed).fit_predict(X)
            found[name][i, j] = count(labels)
            agreement[name][i, j] = adjusted_rand_score(y, labels)

# %%
# Lines are means over three draws of the data, dots are the draws.

# Okabe and Ito's colours, which most colour-blind readers tell apart.
colours = dict(zip(models, ["#0072B2", "#D55E00", "#009E73"], strict=True))
markers = dict(zip(models, "osD", strict=True))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, scores in zip(axes, [found, agreement], strict=True):
    for k, (name, values) in enumerate(scores.items()):
        x = 100 * np.array(shares) + 0.4 * (k - 1)
        style = {"color": colours[name], "marker": markers[name]}
        ax.plot(x, values.mean(axis=0), lw=2, ms=6, label=name, **style)
        ax.plot(x, values.T, ls="", ms=3, alpha=0.4, **style)
    ax.set_xlabel("blocks missing (%)")
    ax.set_xticks([100 * share for share in shares])
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].axhline(n_groups, color="k", ls=":", lw=1.5, label="planted")
axes[1].plot(
    100 * np.array(shares),
    best.mean(axis=0),
    color="k",
    ls="--",
    lw=1.5,
    label="knowing the centres",
)
axes[0].set(title="Groups found", ylim=(0, 31))
axes[1].set(title="Adjusted Rand index", ylim=(0, 1.03))
handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
handles |= dict(zip(*reversed(axes[1].get_legend_handles_labels()), strict=True))
figure.legend(handles.values(), handles, loc="outside right", frameon=False)
plt.show()

# %%
# `DPMixtureFusion` finds the six groups throughout, and assigns rows nearly as well as
# one can. The reference has two difficulties:
#
# - Filled-in means are data to it. Rows that lack the same modalities agree exactly in
#   the filled columns, and that makes groups of patterns of missingness: with diagonal
#   covariances it finds the six as long as nothing is missing, and more and more with
#   every block that goes.
# - With full covariances it finds too many even on complete rows. It starts from 30
#   components, and has no step that merges two which share a group.
#   `DPMixtureFusion` tries mergers, and keeps those that raise its bound.
#
# These data suit the model: the groups are Gaussian and far apart, and blocks go
# missing at random. Groups that overlap or are not Gaussian are found less well, or as
# several components.
#
# Which modality supports which group
# -----------------------------------
#
# The blue heat maps show what each modality *alone* says of the rows of a component, a
# fifth to a third of which lack it (grey). Where the image cannot tell two groups
# apart, rows of both spread over the two columns. The audio alone is sure of three
# groups, and leaves the others to image and text. Each group has another pattern: that
# is how six are found by modalities that see three, two and four.

X = drop_modalities(sample(0)[0], modalities, 0.3, random_state=0)
mixture = DPMixtureFusion(modalities, n_init=1, random_state=0).fit(X)
display = MixtureDisplay.from_estimator(mixture, X)
plt.show()
