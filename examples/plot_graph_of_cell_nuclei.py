"""
A graph of cell nuclei
======================

Ten features of the cell nuclei in images of breast tissue, each as the mean over an
image, its standard error, and the mean of the three worst nuclei: thirty columns in
three groups, which play the part of modalities here, for benign and malignant
tumours. Which of them depend on each other directly? Does that differ between the
two? And what if one group is missing?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skmm import CrossModalGraphicalLasso
from skmm.datasets import drop_modalities
from skmm.plotting import PrecisionGraphDisplay

# %%
# One table, three groups
# -----------------------
#
# Names before `__` make the groups, as `ColumnTransformer` writes them, so that
# `modalities` need not be given.

data = load_breast_cancer(as_frame=True)
X, y = data.data, data.target.map(dict(enumerate(data.target_names)))
groups = {"mean": "mean ", "worst": "worst ", "error": " error"}


def rename(column):
    """From "mean radius" to "mean__radius"."""
    group = next(name for name, mark in groups.items() if mark in column)
    return f"{group}__{column.replace(groups[group], '')}"


X = X.rename(columns=rename)
print(list(X.columns[[0, 10, 20]]))

# %%
# The graph
# ---------
#
# Radius, perimeter and area are all but functions of one another, and the covariance is
# close to singular: the smallest eigenvalue of the correlations is shown. The columns
# are skewed as well, so ranks make better scores here (`npn="shrinkage"`). The extended
# BIC selects the penalty.

print(f"smallest eigenvalue {np.linalg.eigvalsh(X.corr()).min():.1e}")
model = CrossModalGraphicalLasso(
    alpha="auto", selection="ebic", pooling=0, npn="shrinkage"
).fit(X, y)
print(
    f"alpha {model.alpha_:.3f}, {len(model.edges_)} edges, gap {model.duality_gap_:.1e}"
)

# %%
# Edges that run across the groups, by their entry in the common precision; a negative
# one is a positive dependence. That the worst nuclei go with the mean of the same
# feature is no surprise; the graph says that this is what is left when all else is
# known.

across = [e for e in model.edges_ if e.modality is None and e.kind == "common"]
for edge in sorted(across, key=lambda edge: -abs(edge.value))[:5]:
    print(f"{edge.source:<25} {edge.target:<25} {edge.value:+.2f}")

# %%
# Drawn are the partial correlations of at least 0.1: what both classes have, and what
# each adds to it.

display = PrecisionGraphDisplay.from_estimator(model, threshold=0.1)

# %%
# The same as matrices: blocks along the diagonal are groups, and lines beside it join
# the same feature in two groups.

_ = PrecisionGraphDisplay.from_estimator(model, kind="matrix", threshold=0.05)

# %%
# A missing group
# ---------------
#
# Of every row some groups are taken away at random, in training and in new rows alike.
# The estimator has its defaults. Linear discriminant analysis gets the same gaps,
# filled with the means of the columns.

cv = StratifiedKFold(5, shuffle=True, random_state=0)
fractions = [0.0, 0.3, 0.6]
results = {"graphical lasso": [], "means and LDA": []}
for fraction in fractions:
    gaps = drop_modalities(
        X.to_numpy(),
        {g: np.flatnonzero(X.columns.str.startswith(f"{g}__")) for g in groups},
        fraction=fraction,
        random_state=0,
    )
    gaps = X.__class__(gaps, columns=X.columns)
    lda = make_pipeline(
        SimpleImputer(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    )
    for name, method in zip(results, [CrossModalGraphicalLasso(), lda], strict=True):
        results[name].append(cross_val_score(method, gaps, y, cv=cv))

figure, ax = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
for (name, scores), colour in zip(results.items(), ["#D55E00", "#0072B2"], strict=True):
    scores = np.array(scores)
    ax.errorbar(
        np.multiply(100, fractions),
        scores.mean(axis=1),
        scores.std(axis=1) / np.sqrt(5),
        marker="o",
        capsize=3,
        color=colour,
        label=name,
    )
    print(name, scores.mean(axis=1).round(3))
ax.set(xlabel="groups missing (%)", ylabel="accuracy in five folds")
ax.set_xticks([0, 30, 60])
ax.legend(frameon=False)

# %%
# Filling in
# ----------
#
# `impute` gives a missing node its expectation given all that is observed. Without the
# columns of the worst nuclei, most of them can be told from the other twenty.

train, test = next(cv.split(X, y))
model = CrossModalGraphicalLasso().fit(X.iloc[train], y.iloc[train])
worst = X.columns.str.startswith("worst__")
shown = X.iloc[test].mask(np.broadcast_to(worst, (len(test), 30)))
filled = model.impute(shown)
truth = X.iloc[test].to_numpy()
error = np.sqrt(np.mean((filled - truth)[:, worst] ** 2, axis=0))
error /= truth[:, worst].std(axis=0)

figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
order = np.argsort(error)
ax.barh(
    X.columns[worst].str.removeprefix("worst__")[order], error[order], color="#0072B2"
)
ax.axvline(1, color="black", linewidth=0.8)
ax.set(xlabel="error of filled values (1: filled with the mean)")
