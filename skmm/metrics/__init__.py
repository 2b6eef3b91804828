"""Scores of a fit that scikit-learn does not have.

- :func:`clustering_accuracy`: of clusters against classes.
- :func:`mean_iou`: of segmentations.
- :func:`sentiment_scores` and its parts: of sentiment regression, by the field's rules.
- :func:`mmd`, :func:`modality_gap`: how far apart two modalities' embeddings are.
- :func:`recall_at_k`, :func:`mean_average_precision`: how well one modality finds its
  counterpart, or its class, in another.
"""

from skmm.metrics._alignment import mmd, modality_gap
from skmm.metrics._clustering import clustering_accuracy, clustering_accuracy_scorer
from skmm.metrics._retrieval import mean_average_precision, recall_at_k
from skmm.metrics._segmentation import mean_iou
from skmm.metrics._sentiment import (
    sentiment_accuracy,
    sentiment_correlation,
    sentiment_f1,
    sentiment_scores,
)

__all__ = [
    "clustering_accuracy",
    "clustering_accuracy_scorer",
    "mean_average_precision",
    "mean_iou",
    "mmd",
    "modality_gap",
    "recall_at_k",
    "sentiment_accuracy",
    "sentiment_correlation",
    "sentiment_f1",
    "sentiment_scores",
]
