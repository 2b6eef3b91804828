"""Scores of a fit that scikit-learn does not have."""

from skmm.metrics._clustering import clustering_accuracy, clustering_accuracy_scorer
from skmm.metrics._segmentation import mean_iou

__all__ = ["clustering_accuracy", "clustering_accuracy_scorer", "mean_iou"]
