"""Checks of arguments that the dataset functions share."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_number(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = np.inf,
    integer: bool = False,
    remedy: str,
) -> None:
    """Raise unless ``value`` is a number in [low, high]; NaN is in no interval."""
    kind, noun = (Integral, "an integer") if integer else (Real, "a number")
    upper = f"{high}]" if np.isfinite(high) else "inf)"
    expected = f"{name}: expected {noun} in [{low}, {upper}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
        raise TypeError(f"{expected}, got {value!r} ({type(value).__name__}). {remedy}")
    if not low <= float(value) <= high or np.isinf(float(value)):
        raise ValueError(f"{expected}, got {value!r}. {remedy}")


def check_option(name: str, value: Any, options: Sequence[str], remedy: str) -> None:
    """Raise unless ``value`` is one of ``options``."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {options}, got {value!r}. {remedy}")


def as_generator(random_state: Any) -> np.random.Generator:
    """Turn any accepted ``random_state`` into a numpy Generator.

    An int gives ``np.random.default_rng`` of that int, a Generator is used as it
    is (and moves on), a RandomState gives one draw that seeds a new Generator.
    """
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator) or random_state is None:
        return np.random.default_rng(random_state)
    check_number(
        "random_state",
        random_state,
        low=0,
        integer=True,
        remedy="Pass an int, None, a numpy Generator or a RandomState.",
    )
    return np.random.default_rng(int(random_state))
