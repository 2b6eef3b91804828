"""Imports of what only the extra `vision` brings."""

from importlib import import_module
from typing import Any


def import_extra(name: str, user: str) -> Any:
    """Import a module of transformers or Pillow, or say how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(name.split(".")[0], name.split(".")[0])
        raise ImportError(
            f"{user} needs {package}, which cannot be imported ({error}). Install it "
            'with pip install "skmm[vision]".'
        ) from error
