"""
Rows that lack modalities
=========================

Handwritten digits in six views, of which more and more go missing. One question: how
much accuracy is left? The answer depends on the training loss, on what stands in for a
missing view, and on whether the gaps were already there when the model was fitted.

Four models are compared:

- :class:`~skmm.TCMaxClassifier` with its own loss, `"total_correlation"`;
- the same network with `"cross_entropy"` of the summed logits;
- the same network with `"unimodal"`, one cross-entropy a view;
- a logistic regression on all columns, with missing cells filled by their means.

The first three take the gaps as they are: an all-NaN block is a missing modality. Only
the first has a probability model of the views, and sums a missing one out of it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import TCMaxClassifier
from skmm.datasets import drop_modalities, load_mfeat

# %%
# The data
# --------
#
# A quarter of the rows is enough here. `drop_modalities` blanks whole views at random,
# and leaves every row at least one. White is what a row lacks.

mfeat = load_mfeat()
X, y = mfeat.data[::4], mfeat.target[::4]
views = mfeat.modalities
shares = [0.0, 0.25, 0.5, 0.75]
gaps = {share: drop_modalities(X, views, share, random_state=0) for share in shares}

first_columns = [columns.start for columns in views.values()]
figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True, layout="constrained")
for ax, share in zip(axes, shares[1:], strict=True):
    observed = ~np.isnan(gaps[share][:40, first_columns])
    ax.pcolormesh(observed, cmap="Blues", vmin=0, vmax=1.3, edgecolor="w", lw=0.6)
    ax.set(title=f"{share:.0%} missing", xlabel="view")
    ax.set_xticks(np.arange(len(views)) + 0.5, views)
    ax.tick_params(length=0)
axes[0].set_ylabel("row")

# %%
# The comparison
# --------------
#
# Each model is scored on three folds, in two situations: fitted on complete rows, with
# gaps only in the rows to predict; and fitted on rows with as many gaps. The seeds are
# the same for all, so that all see the same rows and gaps.

losses = {
    "total correlation": "total_correlation",
    "cross-entropy": "cross_entropy",
    "unimodal": "unimodal",
}
models = {
    name: TCMaxClassifier(views, loss=loss, max_epochs=60, random_state=0)
    for name, loss in losses.items()
}
models["logistic regression,\nmeans imputed"] = make_pipeline(
    SimpleImputer(), StandardScaler(), LogisticRegression()
)

folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
only_predicting = {name: np.zeros((len(folds), len(shares))) for name in models}
also_fitting = {name: np.zeros((len(folds), len(shares))) for name in models}
for name, model in models.items():
    for i, (train, test) in enumerate(folds):
        for j, share in enumerate(shares):
            X_gaps = gaps[share]
            model.fit(X_gaps[train], y[train])
            also_fitting[name][i, j] = model.score(X_gaps[test], y[test])
            if share == 0:
                only_predicting[name][i] = [
                    model.score(gaps[s][test], y[test]) for s in shares
                ]

# %%
# What is left
# ------------
#
# Lines are means, dots are folds.

# Okabe and Ito's colours, which most colour-blind readers tell apart.
colours = dict(zip(models, ["#0072B2", "#D55E00", "#009E73", "#7F7F7F"], strict=True))
markers = dict(zip(models, "osD^", strict=True))

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
panels = {
    "Gaps only when predicting": only_predicting,
    "Gaps when fitting, too": also_fitting,
}
for ax, (title, scores) in zip(axes, panels.items(), strict=True):
    for k, (name, values) in enumerate(scores.items()):
        # Side by side, since several models agree on complete rows.
        x = 100 * np.array(shares) + 0.9 * (k - 1.5)
        style = {"color": colours[name], "marker": markers[name]}
        ax.plot(x, values.mean(axis=0), lw=2, ms=6, label=name, **style)
        ax.plot(x, values.T, ls="", ms=3, alpha=0.4, **style)
    ax.set_title(title)
    ax.set_xlabel("blocks missing (%)")
    ax.set_xticks([100 * share for share in shares])
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("accuracy")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", frameon=False)
plt.show()

# %%
# On complete rows there is little to choose. With gaps the models part:
#
# - Joint cross-entropy fits the *sum* of the logits and leaves open what each view says
#   by itself, so that a sum with a view left out can be far off.
# - An imputed mean is not neutral either: to the regression it is an observation like
#   any other, namely that of an average digit.
# - Under total correlation, the logits of a view are measured against their mean over
#   the training rows, and leaving a view out is marginalisation, not guesswork. The
#   unimodal loss, whose views are trained apart, stands as well here, and better where
#   most of the few training blocks are gone. For additive fusions the two agree in what
#   they aim at; :ref:`tcmax` tells where they differ.
#
# A few hundred rows, one pattern of gaps and three folds show the shape of the curves,
# no more. And the gaps here fall independently of what the digit looks like, which
# those of real data often do not.
