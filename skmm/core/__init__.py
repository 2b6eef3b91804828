"""Formulas on tensors: what a reader of the papers looks for, and nothing else.

Nothing here knows scikit-learn, skorch or an estimator's parameters.
"""
