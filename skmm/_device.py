"""Where tensors are computed."""

# License: BSD-3-Clause

import warnings
from typing import Any

import torch


def resolve_device(device: Any, *, fitting: bool) -> torch.device:
    """Device of a `device` parameter; a fitted estimator also runs without its GPU."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}."
        ) from error
    if place.type == "cpu":
        return place
    if place.type == "cuda" and (place.index or 0) < torch.cuda.device_count():
        return place
    if fitting or place.type != "cuda":
        raise ValueError(
            f"device: {device!r} is not available; torch sees "
            f"{torch.cuda.device_count()} CUDA devices and the CPU. Use "
            "device='auto' or 'cpu'."
        )
    warnings.warn(
        f"device={device!r} is not available here, so the CPU is used.",
        UserWarning,
        stacklevel=4,
    )
    return torch.device("cpu")
