"""
What classes share, and what each has of its own
================================================

:class:`~skmm.CrossModalGraphicalLasso` splits the graph of several classes into a
common part and a part for each class. Here the truth is known, so that one can see
what it finds, from how many rows, and which of the two ways to choose the penalty to
take for which purpose.
"""

import matplotlib.pyplot as plt
import numpy as np

from skmm import CrossModalGraphicalLasso
from skmm.plotting import PrecisionGraphDisplay

# %%
# Planted graphs
# --------------
#
# Three classes over twelve nodes in two modalities. Fourteen edges are common to all,
# and each class has three more of its own. The classes have the same means: nothing but
# their graphs tells them apart.

rng = np.random.default_rng(7)
n_classes, n_nodes = 3, 12
modalities = {"image": slice(0, 6), "text": slice(6, 12)}
pairs = rng.permutation(np.array(np.triu_indices(n_nodes, 1)).T)


def edges(chosen):
    """A symmetric matrix with entries of 0.2 to 0.35 of either sign."""
    matrix = np.zeros((n_nodes, n_nodes))
    for i, j in chosen:
        matrix[i, j] = matrix[j, i] = rng.uniform(0.2, 0.35) * rng.choice([-1, 1])
    return matrix


common = edges(pairs[:14])
specific = np.stack([edges(chosen) for chosen in np.split(pairs[14:23], n_classes)])
truth = common + specific
lowest = np.linalg.eigvalsh(truth).min()
truth += max(1, 0.1 - lowest) * np.eye(n_nodes)
common += max(1, 0.1 - lowest) * np.eye(n_nodes)


def sample(n_rows):
    """Draw rows of each class, and their labels."""
    X = [
        rng.multivariate_normal(np.zeros(n_nodes), np.linalg.inv(t), n_rows)
        for t in truth
    ]
    return np.concatenate(X), np.repeat(["a", "b", "c"], n_rows)


names = [f"{'image' if k < 6 else 'text'}__x{k}" for k in range(n_nodes)]
planted = PrecisionGraphDisplay(
    truth,
    common=common,
    feature_names=names,
    modalities=[name.split("__")[0] for name in names],
    class_names=["a", "b", "c"],
).plot()
_ = planted.figure_.suptitle("what was planted")

# %%
# What is found
# -------------
#
# Two things to set for reading graphs. `pooling` is zero: the default draws the
# classes' covariances together, which helps classification and hides what differs. And
# the penalty is selected by the extended BIC, which is careful with edges.

X, y = sample(500)
model = CrossModalGraphicalLasso(
    modalities, alpha="auto", common_ratio="auto", selection="ebic", pooling=0
).fit(X, y)
print(f"alpha {model.alpha_:.3f}, common_ratio {model.common_ratio_}")
for edge in model.edges_[:4]:
    print(edge)
found = PrecisionGraphDisplay.from_estimator(model)
_ = found.figure_.suptitle("what was found from 500 rows a class")

# %%
# How many rows it takes
# ----------------------
#
# F1 over pairs of nodes, for the common part and for the specific ones. Common edges
# are seen in all rows, specific ones only in those of their class, so they need more.
# Held-out likelihood, the other way to choose, keeps edges that help to predict a
# little: many more than there are. It is the right choice for what comes below. The
# false edges of the extended BIC are thin, as the figure above shows: `threshold` hides
# them.


def f1(found, true):
    """F1 of the pairs of nodes."""
    upper = np.triu(np.ones(true.shape[-2:], dtype=bool), 1)
    hits = (found & true & upper).sum()
    return 2 * hits / ((found & upper).sum() + (true & upper).sum())


sizes = [50, 100, 200, 400, 800]
scores = {"ebic": [], "cv": []}
for n_rows in sizes:
    X, y = sample(n_rows)
    for selection, values in scores.items():
        model = CrossModalGraphicalLasso(
            modalities, alpha="auto", selection=selection, pooling=0, random_state=0
        ).fit(X, y)
        values.append(
            (
                f1(model.common_precision_ != 0, common != 0),
                f1(model.specific_precision_ != 0, specific != 0),
            )
        )

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (selection, values), colour in zip(
    scores.items(), ["#0072B2", "#D55E00"], strict=True
):
    for part, style, k in [("common", "-o", 0), ("specific", "--s", 1)]:
        ax.plot(
            sizes,
            np.array(values)[:, k],
            style,
            color=colour,
            label=f"{part}, {selection}",
        )
ax.set(xscale="log", xlabel="rows a class", ylabel="F1", ylim=(0, 1.02))
ax.set_xticks(sizes, [str(size) for size in sizes])
ax.minorticks_off()
ax.legend(frameon=False)

# %%
# Graphs that classify
# --------------------
#
# The means are equal, so linear methods guess. The graphs alone tell the classes apart,
# also for rows that lack a modality: the missing nodes are integrated out.

X, y = sample(400)
X_new, y_new = sample(1000)
model = CrossModalGraphicalLasso(
    modalities, alpha="auto", pooling=0, random_state=0
).fit(X, y)
print(f"accuracy, a third is chance: {model.score(X_new, y_new):.2f}")
X_new[:, modalities["text"]] = np.nan
print(f"accuracy without text:       {model.score(X_new, y_new):.2f}")
