"""
What an additive fusion can reach
=================================

With `fusion="additive"`, the default, :class:`~skmm.TCMaxClassifier` adds up what the
modalities say for each class. That is cheap, easy to read, and enough where each
modality tells something by itself. What only a *combination* of modalities tells is out
of its reach, however long it trains. This example shows both on data where the truth is
known, and then takes an additive model apart to see what each modality contributed.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from sklearn.model_selection import train_test_split

from skmm import TCMaxClassifier
from skmm.datasets import load_mfeat, make_multimodal_classification

# %%
# Three sets with a known answer
# ------------------------------
#
# Two modalities, two classes. In the *private* columns each modality shows the class,
# with noise of its own. In the *synergy* columns the class is the exclusive or of two
# hidden bits, one in each modality: either bit alone is a fair coin. The columns that
# show one latent in both modalities are left out here, by the group `"drop"`.

separations = {
    "each tells something": {"private_sep": 2.5, "synergy_sep": 0.0},
    "both": {"private_sep": 1.5, "synergy_sep": 4.0},
    "only together (XOR)": {"private_sep": 0.0, "synergy_sep": 5.0},
}


def make_data(separation):
    """One set, its modalities without the shared columns, and what was planted."""
    X, y, planted = make_multimodal_classification(
        2600,
        n_classes=2,
        shared_sep=0,
        noise=0,
        return_structure=True,
        random_state=0,
        **separation,
    )
    modalities = {"drop": []}
    for name, columns in planted.columns.items():
        modalities["drop"] += range(X.shape[1])[columns["shared"]]
        modalities[name] = slice(columns["private"].start, columns["noise"].stop)
    return X, y, modalities, planted


# %%
# Everything was planted, so that it can be computed how much there is to know, in nats:
# what the modalities tell of the class one by one, :math:`\sum_m I(y; z^m)`, and what
# they tell together beyond that. For these data the two add up to the total correlation
# of the modalities and the class.


def bit_posterior(latent, bit, separation):
    """Probability that a bit is 1, given a normal latent around one of two centres."""
    sign = np.sign(latent[bit == 1].mean() - latent[bit == 0].mean())
    return expit(sign * separation * latent.ravel())


def information(posterior, bit):
    """Mean log-ratio of a posterior to the fair coin, in nats."""
    return np.log(2 * np.where(bit == 1, posterior, 1 - posterior)).mean()


def planted_information(y, planted, private_sep, synergy_sep):
    """What the modalities tell one by one, and what they tell only together."""
    one_by_one = sum(
        information(bit_posterior(latent, y, private_sep), y)
        for latent in planted.private.values()
    )
    bits = zip(planted.synergy.values(), planted.residues.T, strict=True)
    p, q = (bit_posterior(latent, bit, synergy_sep) for latent, bit in bits)
    return one_by_one, information(p * (1 - q) + q * (1 - p), y)


# %%
# Four fusions
# ------------
#
# Each is fitted on 600 rows and looked at on 2000 others. `total_correlation` gives the
# bound that the model reaches there.

fusions = {
    "additive": {"fusion": "additive"},
    "film": {"fusion": "film"},
    "gated": {"fusion": "gated"},
    "mlp": {"fusion": "mlp", "head_hidden": (32,)},
}
accuracy, reached, truth = {}, {}, {}
for case, separation in separations.items():
    X, y, modalities, planted = make_data(separation)
    truth[case] = planted_information(y, planted, **separation)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=600, stratify=y, random_state=0
    )
    for name, options in fusions.items():
        model = TCMaxClassifier(
            modalities,
            hidden=(64,),
            n_components=16,
            n_tuples=4096,
            lr=3e-3,
            max_epochs=40,
            random_state=0,
            **options,
        ).fit(X_train, y_train)
        accuracy[case, name] = model.score(X_test, y_test)
        reached[case, name] = model.total_correlation(X_test, y_test)

# %%
# The dashed line is what the modalities tell one by one, the solid line what there is
# in all. The additive fusion stops at the first, as theory says it must. The others go
# on towards the second.

BLUE, ORANGE, GREEN, PURPLE, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
colours = [BLUE, ORANGE, GREEN, PURPLE]

figure, axes = plt.subplots(
    2, 3, figsize=(9, 5.6), sharex=True, sharey="row", layout="constrained"
)
for (upper, lower), case in zip(axes.T, separations, strict=True):
    one_by_one, together = truth[case]
    scores = [accuracy[case, name] for name in fusions]
    bounds = [reached[case, name] for name in fusions]
    upper.bar_label(upper.bar(list(fusions), scores, color=colours), fmt="%.2f")
    lower.bar(list(fusions), bounds, color=colours)
    upper.set_title(case)
    upper.axhline(0.5, color="k", ls=":", lw=1.5)
    lower.axhline(one_by_one + together, color="k", lw=2, label="planted: in all")
    lower.axhline(one_by_one, color=RED, ls="--", lw=2, label="planted: one by one")
    for ax in (upper, lower):
        ax.spines[["top", "right"]].set_visible(False)
axes[0, 0].set(ylabel="accuracy on new rows", ylim=(0, 1.1))
axes[1, 0].set(ylabel="total correlation\non new rows (nats)", ylim=(-0.1, 1.15))
axes[0, 2].text(-0.4, 0.6, "chance", fontsize=9)
lines = axes[1, 0].get_legend_handles_labels()
figure.legend(*lines, loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %%
# So: start with the additive fusion. If another one scores clearly higher on held-out
# rows, the modalities say something together that none says alone.
#
# What each view tells
# --------------------
#
# An additive model can be read a modality at a time. These are handwritten digits in
# four views: the pixels, and three sets of shape features. `modality_information_` is
# what each view tells of the digit on the training rows, in nats. Any network flatters
# itself there: the mean of `modality_contributions` at the true class over *other* rows
# estimates the same without flattery. No view can tell more than the entropy of the
# labels.

mfeat = load_mfeat(views=["pix", "fou", "zer", "mor"])
X_train, X_test, y_train, y_test = train_test_split(
    mfeat.data, mfeat.target, train_size=500, stratify=mfeat.target, random_state=0
)
model = TCMaxClassifier(mfeat.modalities, random_state=0).fit(X_train, y_train)

contributions = model.modality_contributions(X_test)  # rows, views, classes
names = list(model.modality_names_in_)
on_new_rows = contributions[np.arange(len(y_test)), :, y_test].mean(axis=0)

figure, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
place = np.arange(len(names))
ax.barh(
    place - 0.2,
    model.modality_information_,
    0.38,
    color="#56B4E9",
    label="training rows",
)
ax.barh(place + 0.2, on_new_rows, 0.38, color=BLUE, label="new rows")
ax.axvline(
    model.label_entropy_, color="k", ls="--", lw=1.5, label="entropy of the labels"
)
ax.set_yticks(place, names)
ax.invert_yaxis()
ax.set_xlabel("information on the digit (nats)")
ax.spines[["top", "right"]].set_visible(False)
figure.legend(*ax.get_legend_handles_labels(), loc="outside right", frameon=False)
plt.show()

# %%
# Why this row got its label
# --------------------------
#
# For one row, the contributions say which view spoke for which digit: above zero for,
# below zero against. Together with `class_offset_` they add up to the logits. The
# Fourier coefficients and Zernike moments hardly change when a digit is turned, so that
# they cannot tell a 6 from a 9, and here the pixels decide.

row = np.flatnonzero(y_test == 9)[0]
total = contributions[row].sum(axis=0) + model.class_offset_
total -= total.mean()  # a constant in all classes means nothing
table = np.vstack([contributions[row], total])
most = np.abs(table).max()

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.2), width_ratios=[1, 3.4], layout="constrained"
)
pixels = X_test[row, mfeat.modalities["pix"]].reshape(16, 15)
left.imshow(pixels, cmap="gray_r")
left.set_title(f"a {y_test[row]}, taken for a {model.predict(X_test[[row]])[0]}")
left.set_axis_off()
drawn = right.imshow(table, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
for (i, j), value in np.ndenumerate(table):
    shade = "w" if abs(value) > 0.6 * most else "k"
    right.text(j, i, f"{value:.1f}", ha="center", va="center", color=shade, fontsize=8)
right.axhline(len(names) - 0.5, color="k", lw=1.5)
right.set_xticks(range(10), model.classes_)
right.set_yticks(range(len(names) + 1), [*names, "sum"])
right.set_xlabel("digit")
right.tick_params(length=0)
figure.colorbar(drawn, ax=right, label="against / for (nats)")
plt.show()
