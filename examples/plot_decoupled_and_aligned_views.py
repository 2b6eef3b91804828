"""
What decoupling and alignment do for rows that lack views
=========================================================

:class:`~skmm.DecAlignClassifier` splits each view into a part of its own and a common
part. Prototypes of the parts of their own are matched between views by optimal
transport, and the common parts are given the same distribution. Here digits in three
views lose a part of their blocks. What do the two kinds of alignment look like, and
what do they change in the predictions?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import DecAlignClassifier
from skmm.datasets import drop_modalities, load_mfeat
from skmm.plotting import AlignmentDisplay

# %%
# The data
# --------
#
# A third of the blocks is missing, in rows to fit as in rows to predict. Every row
# keeps at least one view.

mfeat = load_mfeat(views=("fou", "kar", "zer"))
X, y, views = mfeat.data[::2], mfeat.target[::2], mfeat.modalities
test = np.arange(len(X)) % 4 == 3
gaps = drop_modalities(X, views, 1 / 3, random_state=0)

# %%
# Four models
# -----------
#
# The same network with all terms of the loss, without those that align (the transport
# between prototypes and the distributions of the common parts), without the one that
# decouples a view's two parts, and with the classification alone.

aligned = DecAlignClassifier(views, max_epochs=20, random_state=0)
no_alignment = {"heterogeneity_weight": 0, "homogeneity_weight": 0}
models = {
    "all terms": aligned,
    "no alignment": clone(aligned).set_params(**no_alignment),
    "no decoupling": clone(aligned).set_params(decoupling_weight=0),
    "task alone": clone(aligned).set_params(**no_alignment, decoupling_weight=0),
    "means, logistic": make_pipeline(
        SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000)
    ),
}
for model in models.values():
    model.fit(gaps[~test], y[~test])

# %%
# Accuracy on held-out rows: with gaps, complete, and with a single view left. The last
# model fills gaps with the means of the columns.


def only(view):
    """Held-out rows that have this view alone."""
    alone = np.full_like(X[test], np.nan)
    alone[:, views[view]] = X[test][:, views[view]]
    return alone


situations = {"gaps": gaps[test], "complete": X[test]}
situations |= {f"{view} alone": only(view) for view in views}
print(" " * 16 + "".join(f"{name:>11}" for name in situations))
for name, model in models.items():
    scores = [model.score(rows, y[test]) for rows in situations.values()]
    print(f"{name:16}" + "".join(f"{score:11.2f}" for score in scores))

# %%
# With a few hundred rows, differences of two or three hundredths are within chance.
#
# The common parts
# ----------------
#
# Held-out rows without gaps, with and without alignment. The *gap* of a title is the
# distance of the views' centres, where all points have length one.

AlignmentDisplay.from_estimator(
    aligned,
    X[test],
    kind="common",
    before=models["no alignment"],
    titles=("without alignment", "with alignment"),
)
plt.show()

# %%
# The same by digit: views whose clouds coincide need not have the same digit in the
# same place.

AlignmentDisplay.from_estimator(
    aligned,
    X[test],
    y[test],
    kind="common",
    before=models["no alignment"],
    titles=("without alignment", "with alignment"),
)
plt.show()

# %%
# *R@1* is how often a view's nearest neighbour in another view is the same row. A
# distribution that is the same for all views does not make the views of a row
# neighbours: with a target, `pair_weight` is 0 unless it is set.
#
# The plan between prototypes
# ---------------------------
#
# What stands for a missing view's own part is what the plan makes of the views that
# are there: each prototype of one goes over to those of another in the shares of its
# row of the plan. Each prototype is labelled by the digit that has most part in it.
# Cells whose digits agree are framed, and the title adds them up; a tenth would be
# chance.

AlignmentDisplay.from_estimator(aligned, X[test], y[test])
plt.show()

# %%
# Transport compares the prototypes' places and spreads, and knows neither which rows
# have two views nor the labels. What is drawn, and imputed, mixes it with how often
# prototypes meet in rows that have both views; ``prototype_match="plan"`` leaves that
# out.
#
# The way there
# -------------
#
# Each term over the epochs, without its weight.

AlignmentDisplay.from_estimator(aligned, kind="terms")
plt.show()
