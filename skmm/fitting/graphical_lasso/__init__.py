"""Solvers of the joint graphical lasso, and the reductions before them."""

from ._blocks import Penalties, Solution, screen, solve
from ._path import Search, Strengths, Task

__all__ = [
    "Penalties",
    "Search",
    "Solution",
    "Strengths",
    "Task",
    "screen",
    "solve",
]
