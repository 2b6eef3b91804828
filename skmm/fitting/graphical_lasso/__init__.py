"""Solvers of the joint graphical lasso, and the reductions before them."""

from ._blocks import Penalties, Solution, screen, solve

__all__ = ["Penalties", "Solution", "screen", "solve"]
