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
    for name in sorted(parts):
        value = parts[name]
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:24]


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
            "optimizer": net.optimizer_.state_dict(),
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
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), net.device)

    def discard(self) -> None:
        """Remove the file of a training that has ended."""
        self.path.unlink(missing_ok=True)
