"""Multimodal data: real sets, two generators, and a way to lose blocks.

- :func:`load_mfeat`, :func:`load_digits_pen`: small real sets that come with skmm.
- :func:`load_mmsa`: feature files of CMU-MOSI, CMU-MOSEI and CH-SIMS, from the disk.
- :func:`make_multimodal_classification`: plants shared, private and synergistic
  class information, and returns what it planted.
- :func:`make_photo_digits`: pairs of a grey digit and another one on a photo, made of
  given digits.
- :func:`drop_modalities`: removes a share of the modality blocks at random.
"""

from skmm.datasets._digits import load_digits_pen, load_mfeat
from skmm.datasets._generate import make_multimodal_classification
from skmm.datasets._missing import drop_modalities
from skmm.datasets._mmsa import load_mmsa
from skmm.datasets._photo_digits import make_photo_digits

__all__ = [
    "drop_modalities",
    "load_digits_pen",
    "load_mfeat",
    "load_mmsa",
    "make_multimodal_classification",
    "make_photo_digits",
]
