"""Read pickles of arrays without running anything that they name.

A pickle names functions to call. Here it gets none of them: what numpy's arrays need
is rebuilt by the few functions below, which return inert objects until the whole file
is read, and every other name is refused.
"""

# License: BSD-3-Clause

import copyreg
import math
import os
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np


class _RefusedError(pickle.UnpicklingError, ValueError):
    """A pickle asks for something that is not needed to hold features."""


def read_pickle(path: Any) -> Any:
    """Read a pickle of arrays, numbers, text and containers."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"path: expected a file, got {path!r}, where there is none. Download the "
            "features from where MMSA publishes them, and pass their path."
        )
    # An object that copyreg numbered and that was met before would come from this
    # cache, past `find_class`.
    copyreg.clear_extension_cache()
    with open(path, "rb") as file:
        try:
            return _Unpickler(file, encoding="bytes").load()
        except (_RefusedError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"path: expected a pickle of MMSA, got {path!r}, which cannot be read "
                f"as one ({type(error).__name__}: {error}). Download it again."
            ) from error


class _Unpickler(pickle.Unpickler):
    """Looks every name up in a table of our own, and nothing in a module."""

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a name; raise if there is none."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedError(
                f"path: expected a pickle of numpy arrays, numbers, text and "
                f"containers, got one that asks for {module}.{name}. Nothing of it was "
                "run. Do not open it in another way unless you trust where it is from; "
                "save its arrays with numpy alone."
            ) from None


class _StandIn:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError(
            "path: expected a pickle of numpy arrays, got one that changes functions. "
            "Nothing of it was run. Do not open it in another way."
        )


class _Dtype:
    """A type of numbers or text; only names of simple ones are understood."""

    __slots__ = ("_descr", "_order")

    def __init__(self, descr: Any, align: Any = False, copy: Any = True) -> None:
        descr = descr.decode("ascii") if isinstance(descr, bytes) else descr
        simple = re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}|O[48]?", descr)
        if simple is None or align:
            raise _RefusedError(
                f"path: expected arrays of numbers or text, got the type {descr!r}. "
                "Save the arrays as float32 or float64."
            )
        self._descr, self._order = descr, "|"

    def __setstate__(self, state: Any) -> None:
        # Of numpy's state only the byte order is read: sizes and flags, which it takes
        # on trust, would let a file read and write memory.
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(part for part in state[2:5]):
            raise _RefusedError(
                "path: expected arrays of numbers or text, got a structured type. Save "
                "the arrays as float32 or float64."
            )
        self._order = order

    def build(self) -> np.dtype[Any]:
        """Return the dtype itself."""
        if self._descr.startswith("O"):
            return np.dtype(object)
        dtype = np.dtype(self._descr)
        return dtype if self._order == "|" else dtype.newbyteorder(self._order)


class StoredArray:
    """An array in the making: numpy's own would believe what the file says."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.values = _build(content, dtype, shape, "F" if fortran else "C")


def _build(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Return an array of what the file holds, of the stated type and shape."""
    built, size = dtype.build(), math.prod(shape)
    if built.hasobject:
        plain = isinstance(content, list) and all(
            item is None or isinstance(item, str | bytes | bool | int | float)
            for item in content
        )
        if not plain or len(content) != size:
            raise _RefusedError(
                "path: expected object arrays of text or numbers, got others. Save the "
                "arrays as float32 or float64, and lists of text as lists."
            )
        values = np.empty(size, dtype=object)
        values[:] = content
        # In rows whatever the order: numpy lists the objects so.
        return values.reshape(shape)
    if not isinstance(content, bytes | bytearray):
        raise TypeError(f"a {type(content).__name__} for the bytes of an array")
    if len(content) != size * built.itemsize:
        raise ValueError(f"{len(content)} bytes for an array of {shape} {built}")
    return np.ndarray(shape, dtype=built, buffer=content, order=order)


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> StoredArray:
    """Stand in for numpy's, whose array is empty until its state is set."""
    return StoredArray(np.empty(0))


def _frombuffer(
    content: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None
) -> StoredArray:
    """Stand in for that of protocol 5; order "K" is one of swapped axes."""
    if order == "K":
        return StoredArray(_build(content, dtype, shape, "C").transpose(axis_order))
    return StoredArray(_build(content, dtype, shape, order))


def _scalar(dtype: Any, content: Any) -> Any:
    """Return a number or text of numpy as that of Python."""
    return _build(content, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that a pickle of protocol 2 writes as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(
            f"path: expected bytes as latin1, got {encoding!r}. Save the file with a "
            "newer protocol of pickle."
        )
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    """Return what protocol 2 writes for no bytes at all; others come by `_encode`."""
    if args:
        raise _RefusedError("path: expected empty bytes, got bytes() of something.")
    return b""


def _bytearray(content: Any = b"", encoding: Any = "latin1") -> bytearray:
    """Return bytes; of a number it would be as many zeros."""
    if isinstance(content, str):
        content = _encode(content, encoding)
    return bytearray(memoryview(content))


def _stand_ins() -> dict[tuple[str, str], Any]:
    """All names that a file may ask for, of NumPy 1 and 2 and of Python 2 and 3."""
    found: dict[tuple[str, str], Any] = {
        # Only ever handed to `_reconstruct`, which does not look at it.
        ("numpy", "ndarray"): object(),
        ("numpy", "dtype"): _StandIn(_Dtype),
    }
    for module in ("codecs", "_codecs"):
        found[module, "encode"] = _StandIn(_encode)
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _StandIn(_reconstruct)
        found[f"{core}.multiarray", "scalar"] = _StandIn(_scalar)
        found[f"{core}.numeric", "_frombuffer"] = _StandIn(_frombuffer)
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, complex):
            found[module, kind.__name__] = _StandIn(kind)
        found[module, "bytes"] = _StandIn(_no_bytes)
        found[module, "bytearray"] = _StandIn(_bytearray)
    return found


_STAND_INS = _stand_ins()
