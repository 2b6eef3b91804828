"""
Two views of which few pairs are known
======================================

The same handwritten digits were measured twice, as pictures and by the correlations of
their profiles, but it is known of few only which picture and which profile are of one
digit. The other rows have one view each. :class:`~skmm.DecAlignTransformer` splits each
view into a part of its own and a part in a space common to both, and makes the clouds
of the common parts alike: for that no pairs are needed. Is a digit then found again by
its other view, and can one view be written in terms of the other?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skmm import DecAlignTransformer
from skmm.datasets import load_mfeat
from skmm.metrics import recall_at_k
from skmm.plotting import AlignmentDisplay

# %%
# Few pairs
# ---------
#
# Every fourth row is held out, complete. Of the others, a hundred keep both views. What
# is not paired enters as two rows, each with the other view missing: an all-NaN block.
# No labels are used to fit.

mfeat = load_mfeat(views=("pix", "fac"))
X, y, views = mfeat.data, mfeat.target, mfeat.modalities
test = np.arange(len(X)) % 4 == 3


def only(X, view):
    """Rows with this view alone."""
    alone = np.full_like(X, np.nan)
    alone[:, views[view]] = X[:, views[view]]
    return alone


shuffled = np.random.default_rng(0).permutation(np.flatnonzero(~test))
pairs, others = X[shuffled[:100]], X[shuffled[100:]]
X_fit = np.vstack([pairs, only(others, "pix"), only(others, "fac")])
there = ~np.isnan(X_fit[:, [columns.start for columns in views.values()]])
print(f"{there.all(axis=1).sum()} pairs, {(~there.all(axis=1)).sum()} rows of one view")

# %%
# To see what each ingredient does, the model is fitted three times: with neither pairs
# nor alignment, with alignment only, and with both. The weights are those of the
# loss's terms: `homogeneity_weight` makes the distributions of the common parts alike,
# `pair_weight` draws the two views of a row together where both are there.

options = {"max_epochs": 20, "random_state": 0}
models = {
    "neither": DecAlignTransformer(
        views, homogeneity_weight=0, pair_weight=0, **options
    ),
    "alike": DecAlignTransformer(views, pair_weight=0, **options),
    "alike and paired": DecAlignTransformer(views, **options),
}
for model in models.values():
    model.fit(X_fit)

# %%
# The common space
# ----------------
#
# Held-out rows, with lines between the two views of a few. The *gap* is the distance of
# the two clouds' centres. *R@1* is how often the nearest of all other views is the
# row's own; a guess would be right once in 500. Each panel is a projection on its own
# first two principal components, both numbers are computed without it.

neither, both = models["neither"], models["alike and paired"]
AlignmentDisplay.from_estimator(
    both,
    X[test],
    kind="common",
    before=neither,
    titles=("neither alike nor paired", "alike and paired"),
)
plt.show()

# %%
# The same points by class: what the model was not told.

AlignmentDisplay.from_estimator(both, X[test], y[test], kind="common")
plt.show()

# %%
# The terms of the loss over the epochs, each by itself and without its weight.

AlignmentDisplay.from_estimator(
    both, kind="terms", terms=["decoupling", "moments", "mmd", "pairs"]
)
plt.show()

# %%
# Found by the other view
# -----------------------
#
# The common part of a view is `transform` of rows that have this view alone, with
# ``output="common"``. Two things that need no such model are beside it: principal
# components of each view, which are no common space at all and stand for doing nothing;
# and a ridge regression from one view to the other, fitted on the hundred pairs, whose
# prediction is compared with the true ones.
#
# *Digit* is how often the nearest is of the right class.


def common(model, view):
    """Common parts of the held-out rows, from one view."""
    return model.set_params(output="common").transform(only(X[test], view))


def columns_of(rows, view):
    """Standardised columns of one view."""
    scaler = StandardScaler().fit(X[~test][:, views[view]])
    return scaler.transform(rows[:, views[view]])


pix, fac = (columns_of(X[test], view) for view in views)
ridge = RidgeCV(np.logspace(-1, 4, 11))
ridge.fit(columns_of(pairs, "pix"), columns_of(pairs, "fac"))
spaces = {
    "PCA": [PCA(20).fit_transform(one) for one in (pix, fac)],
    "ridge on the pairs": [ridge.predict(pix), fac],
    **{name: [common(one, view) for view in views] for name, one in models.items()},
}
print(f"{'fac by pix':20}  R@1  R@10  digit")
for name, (queries, gallery) in spaces.items():
    exact = recall_at_k(queries, gallery, k=[1, 10])
    digit = recall_at_k(queries, gallery, query_labels=y[test], gallery_labels=y[test])
    print(f"{name:20} {exact[0]:4.2f}  {exact[1]:4.2f}  {digit:5.2f}")

# %%
# The regression is a strong opponent here: these two views are nearly linear functions
# of one another, and for such a hundred pairs go a long way. Of the rows without a
# partner it makes no use.
#
# Translated
# ----------
#
# `transport` with ``decode=True`` writes a view in the other's columns: the common part
# is kept, the part of its own is exchanged for the one that the transport plan between
# the views' prototypes makes of it. The other way to a picture is a look-up: that of
# the training picture, paired or not, whose common part is nearest.
#
# On top the true pictures, the first held-out one of each digit, none picked by hand.

first = np.unique(y[test], return_index=True)[1]


def nearest_picture(rows):
    """Training pictures whose common parts are nearest to those of profiles."""
    both.set_params(output="common")
    queries = both.transform(only(rows, "fac"))
    gallery = both.transform(only(X[~test], "pix"))
    unit = [Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (queries, gallery)]
    return X[~test][(unit[0] @ unit[1].T).argmax(axis=1)][:, views["pix"]]


back = RidgeCV(np.logspace(-1, 4, 11))
back.fit(columns_of(pairs, "fac"), pairs[:, views["pix"]])
pictures = {
    "true": X[test][:, views["pix"]],
    "transported": both.transport(X[test], "fac", "pix", decode=True),
    "looked up": nearest_picture(X[test]),
    "ridge": back.predict(columns_of(X[test], "fac")),
}
figure, axes = plt.subplots(
    len(pictures), 10, figsize=(8, 3.9), layout="constrained", squeeze=False
)
for row, (name, values) in zip(axes, pictures.items(), strict=True):
    for ax, picture in zip(row, values[first], strict=True):
        ax.imshow(picture.reshape(16, 15), cmap="gray_r", vmin=0, vmax=6)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()

# %%
# A classifier that was fitted on true pictures reads the digit from each, and beside
# that is the error of the pixels, as a share of their variance: the mean picture has
# an error of one.

judge = make_pipeline(StandardScaler(), SVC()).fit(X[~test][:, views["pix"]], y[~test])
true = pictures["true"]
variance = np.square(true - true.mean(axis=0)).mean()
print("picture from fac  digit  error")
for name, values in pictures.items():
    error = np.square(values - true).mean() / variance
    print(f"{name:16} {judge.score(values, y[test]):6.2f} {error:6.2f}")

# %%
# What is transported is a mean of few prototypes. The plan knows these by their places
# and spreads only, and may send those of one digit to those of another; where it does,
# the common part is left to tell what the picture is of. A look-up returns what
# somebody wrote, sharp and whole, where the decoder and the regression return means.
