"""
A picture from a pen's path, and a path from a picture
======================================================

Digits in two views: a picture of 8 x 8 pixels, and eight points along the path of a
pen. :class:`~skmm.DCMEMEncoder` learns from pairs what the views share, and generates
one from the other. Does a picture of a 3 give the path of a 3?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from skmm import DCMEMEncoder
from skmm.datasets import load_digits_pen
from skmm.modalities import Modality
from skmm.plotting import SharedCodeDisplay

# %%
# The data
# --------
#
# The two views of a row are of the same digit, but by different people: the class is
# all that they share. The pictures of the test rows are by writers who wrote none of
# the training rows'.
#
# The picture is said to be one, so that it is drawn as one below. At 8 x 8 pixels a
# multilayer perceptron reads it as well as a convolutional net, and faster.

digits = load_digits_pen()
X, y, test = digits.data, digits.target, digits.test
image, pen = digits.modalities["image"], digits.modalities["pen"]
modalities = {
    "image": Modality(
        image, shape=(1, 8, 8), scaling="block", encoder="mlp", decoder="mlp"
    ),
    "pen": Modality(pen),
}

# %%
# What is shared
# --------------
#
# No labels are used to fit. By default the prediction of one view from the other is
# trained as `generate` makes it: from the other's shared code, and a private code drawn
# from the prior.

encoder = DCMEMEncoder(modalities, max_epochs=30, random_state=0)
encoder.fit(X[~test])

# %%
# Are the codes of a row's two views near one another? They are nearer than those of
# different digits, but no nearer than those of any two rows of a digit. That is as it
# must be: of its row's path a picture says nothing but the digit.

few = np.flatnonzero(test)[:500]
SharedCodeDisplay.from_estimator(encoder, X[few], y[few], kind="distances")
plt.show()

# %%
# Paths from pictures
# -------------------
#
# On top are test pictures, the first of each digit, none picked by hand; below, three
# paths that are generated from each. The dot is where the pen sets down, which no
# picture shows: it is learnt from the paths of the training rows.


def draw_path(ax, values):
    """Draw eight points (x, y) and the lines between them."""
    x, y = values.reshape(8, 2).T
    ax.plot(x, y, lw=1.5, color="#0072B2")
    ax.plot(x[0], y[0], "o", ms=4, color="#D55E00")
    ax.set(xlim=(-15, 115), ylim=(-15, 115), aspect="equal")


SharedCodeDisplay.from_estimator(
    encoder,
    X[test],
    y[test],
    kind="generation",
    from_="image",
    n_samples=3,
    draw={"pen": draw_path},
    random_state=0,
)
plt.show()

# %%
# Pictures from paths
# -------------------
#
# The same the other way. These pictures are blurred: a code stands for all pictures
# that go with it, and what is drawn is their mean.

SharedCodeDisplay.from_estimator(
    encoder,
    X[test],
    y[test],
    kind="generation",
    from_="pen",
    n_samples=3,
    draw={"pen": draw_path},
    random_state=0,
)
plt.show()

# %%
# How often is it the right digit?
# --------------------------------
#
# A classifier that was fitted on true views of the training rows reads what is
# generated for the test rows. *Coherence* is how often it reads the digit of the row.
# Its accuracy on the true views is about the most that can be had. A look-up, which
# takes the other view of the nearest training row, stands for doing without a model.
#
# *Spread* is how much three draws of a row vary, as a share of how much true views of a
# digit do: the mean of their variances about the row's mean, over that about the mean
# of the digit. It is 1 where draws vary as people do.

print("from  to     true  look-up  generated  spread")
for from_, to in [("image", "pen"), ("pen", "image")]:
    given, wanted = digits.modalities[from_], digits.modalities[to]
    judge = SVC().fit(X[~test, wanted], y[~test])
    draws = encoder.generate(X[test], from_, to, n_samples=3, random_state=0)
    nearest = NearestNeighbors(n_neighbors=1).fit(X[~test, given])
    found = nearest.kneighbors(X[test, given], return_distance=False)[:, 0]
    within = np.mean([X[y == k, wanted].var(axis=0).sum() for k in range(10)])
    print(
        f"{from_:5} {to:5} {judge.score(X[test, wanted], y[test]):5.2f}"
        f"{judge.score(X[~test, wanted][found], y[test]):9.2f}"
        f"{np.mean([judge.score(draw, y[test]) for draw in draws]):11.2f}"
        f"{draws.var(axis=0, ddof=1).sum(axis=1).mean() / within:8.2f}"
    )

# %%
# Most of what is generated is the right digit, far more than the tenth that chance
# would give, though no label had a part in it. The look-up is right more often: it
# returns what somebody wrote. Where views share the class and no more, a look-up is
# hard to beat.
#
# The draws of a row are also more alike than what people write. Shared and private
# codes are drawn anew for each, and bring but a part of the ways to write a digit.
