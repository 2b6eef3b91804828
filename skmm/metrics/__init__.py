"""Scores of a fit that scikit-learn does not have."""

from skmm.metrics._clustering import clustering_accuracy, clustering_accuracy_scorer

__all__ = ["clustering_accuracy", "clustering_accuracy_scorer"]
