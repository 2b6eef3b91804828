"""
Two views of which few pairs are known
======================================

The same handwritten digits were measured twice, as pictures and by the correlations of
their profiles, but it is known of few only which picture and which profile are of one
digit. The other rows have one view each. :class:`~skmm.DecAlignTransformer` splits each
view into a part of its own and a part in a space common to both, makes the clouds of
the common parts alike, and finds partners for the rows that have one view alone. Is a
digit then found again by its other view?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from skmm import DecAlignTransformer
from skmm.datasets import load_mfeat
from skmm.metrics import recall_at_k
from skmm.plotting import AlignmentDisplay

# %%
# Few pairs
# ---------
#
# Every fourth row is held out, complete. Of the others, thirty keep both views. What
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
pairs, others = X[shuffled[:30]], X[shuffled[30:]]
X_fit = np.vstack([pairs, only(others, "pix"), only(others[::-1], "fac")])
there = ~np.isnan(X_fit[:, [columns.start for columns in views.values()]])
print(f"{there.all(axis=1).sum()} pairs, {(~there.all(axis=1)).sum()} rows of one view")

# %%
# To see what each ingredient does, the model is fitted three times: with clouds made
# alike (`homogeneity_weight`) and nothing else; with the two views of a pair drawn
# together as well (`pair_weight`); and, as by default, with rows of one view matched
# with each other, too (`match_rows`). The matching starts from the thirty pairs, and
# goes back and forth between what they and the matches so far say of the two views'
# relation and who belongs to whom if that is so.

options = {"max_epochs": 12, "random_state": 0}
models = {
    "alike": DecAlignTransformer(views, pair_weight=0, **options),
    "and paired": DecAlignTransformer(views, match_rows=False, **options),
    "and matched": DecAlignTransformer(views, **options),
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

alike, matched = models["alike"], models["and matched"]
AlignmentDisplay.from_estimator(
    matched,
    X[test],
    kind="common",
    before=alike,
    titles=("alike", "alike, paired and matched"),
)
plt.show()

# %%
# Clouds that are alike need not be so row by row: without pairs nothing says which
# place of one is which of the other. The same points by class, which the model was not
# told:

AlignmentDisplay.from_estimator(matched, X[test], y[test], kind="common")
plt.show()

# %%
# The terms of the loss over the epochs, each by itself and without its weight.

AlignmentDisplay.from_estimator(
    matched, kind="terms", terms=["decoupling", "moments", "mmd", "pairs"]
)
plt.show()

# %%
# Found by the other view
# -----------------------
#
# The common part of a view is `transform` of rows that have this view alone, with
# ``output="common"``. Two things that need no such model are beside it: principal
# components of each view, which are no common space at all and stand for doing nothing;
# and a ridge regression from one view to the other, fitted on the thirty pairs, whose
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
# The regression makes no use of rows without a partner. The matching does: here is how
# often the likeliest partner of a picture is the profile of the same digit, or of one
# of its class, among all.

found = matched.partners_["pix"]["fac"]
n = len(others)
is_own = (found["rows"] - len(pairs)) == n - 1 - (found["partner"] - len(pairs) - n)
labels = np.r_[y[shuffled], y[shuffled[30:]][::-1]]
is_digit = labels[found["rows"]] == labels[found["partner"]]
print(f"own partner {is_own.mean():.2f}, same digit {is_digit.mean():.2f}")

# %%
# These two views are nearly functions of one another, and every row without a partner
# has one somewhere among the others. Where the rows of two views are not drawn from one
# population, partners are found all the same, and mean nothing: ``match_rows=False``
# leaves them out.
