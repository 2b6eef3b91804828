"""
What an additive fusion can reach
=================================

With `fusion="additive"`, the default, :class:`~skmm.TCMaxClassifier` adds up what the
modalities say for each class. That is cheap, easy to read, and enough whenever each
modality tells something by itself. What only a *combination* of modalities tells is out of
its reach, however long it trains. This example shows both on data where the truth is known,
and then takes an additive model apart to see what each modality contributed.
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
# Two modalities, two classes. In the *private* part of the generator each modality shows
# the class by itself, the two independently given the class. In the *synergy* part the
# class is the exclusive or of two hidden bits, one in each modality: either bit alone is a
# fair coin. The columns that show the same latent in both modalities are left out, through
# the group `"drop"`.
#
# Since everything was planted, the informations can be computed, in nats: what the
# modalities tell one by one, :math:`\sum_m I(y; z^m)`, and what they tell together beyond
# that. Their sum is the total correlation of the two modalities and the class.

separations = {
    "each modality tells": {"private_sep": 2.5, "synergy_sep": 0.0},
    "both ways": {"private_sep": 1.5, "synergy_sep": 4.0},
    "exclusive or": {"private_sep": 0.0, "synergy_sep": 5.0},
}


def planted_information(latents, codes, separation):
    """Posterior of a code of 0 or 1 from each latent, and its mean log-ratio to 1/2."""
    q = np.hstack(list(latents.values()))
    sign = np.where(np.array([np.corrcoef(*pair)[0, 1] for pair in zip(q.T, codes.T)]) < 0, -1, 1)
    p = expit(separation * sign * q)
    return p, np.log(2 * np.where(codes == 1, p, 1 - p)).mean(axis=0)
