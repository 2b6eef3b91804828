"""Save a training after each epoch, and take it up again after a kill."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch


def fingerprint(parts: dict[str, Any]) -> str:
    """Hex digest of named arrays and plain values: which run a checkpoint is of."""
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()[:24]


def _feed(digest: Any, value: Any) -> None:
    """Feed a value by content: the same in every process, without addresses."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, (str, int, float, np.generic, slice, type(None))):
        digest.update(repr(value).encode())
    else:
        named = value if hasattr(value, "__qualname__") else type(value)
        digest.update(f"{named.__module__}.{named.__qualname__}".encode())


def _plain(value: Any) -> Any:
    """Nested values without NumPy scalars, which a safe load refuses."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


class Checkpoint:
    """One training's file in a folder.

    The name holds the fingerprint of the data and parameters, so that the fits of a
    search share a folder, and a run is only taken up by its like. Written beside
    and then renamed, so that a kill leaves the last epoch or the one before. The
    file is gone once the training has ended.

    Parameters
    ----------
    folder : str or Path
    run : str
        From `fingerprint`.
    """

    def __init__(self, folder: str | os.PathLike[str], run: str):
        self.path = Path(folder) / f"skmm-{run}.pt"

    def save(self, net, record) -> None:
        """Write weights, optimiser, record and the generators' states."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "module": net.module_.state_dict(),
            "optimizer": _plain(net.optimizer_.state_dict()),
            "record": dict(vars(record)),
            "rng": torch.get_rng_state(),
        }
        device = torch.device(net.device)
        if device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(device)
        beside = self.path.with_suffix(f".{os.getpid()}")
        torch.save(state, beside)
        beside.replace(self.path)

    def restore(self, net, record) -> None:
        """Set net, record and generators to the saved epoch; nothing if none is."""
        if not self.path.exists():
            return
        # weights_only: a file in the folder can't run code.
        state = torch.load(self.path, map_location=net.device, weights_only=True)
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        for name, value in state["record"].items():
            setattr(record, name, value)
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state and torch.device(net.device).type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), net.device)

    def discard(self) -> None:
        """Remove the file of a training that has ended."""
        self.path.unlink(missing_ok=True)
