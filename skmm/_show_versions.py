"""What to paste into a bug report."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from ._version import __version__

# Distribution names: what pip installs, in the order of pyproject.toml.
DEPENDENCIES = (
    "scikit-learn",
    "numpy",
    "scipy",
    "torch",
    "skorch",
    "POT",
    "joblib",
    "rich",
    "threadpoolctl",
    "matplotlib",
    "pandas",
    "polars",
    "transformers",
    "pillow",
    "skops",
    "pip",
)


def _dependency_versions():
    versions = {}
    for name in DEPENDENCIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _torch_info():
    import torch

    devices = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    return {
        "threads": torch.get_num_threads(),
        "CUDA build": torch.version.cuda or "no (CPU build)",
        "CUDA available": torch.cuda.is_available(),
        "CUDA devices": ", ".join(devices) or "none",
    }


def _thread_pools():
    from threadpoolctl import threadpool_info

    pools = {}
    for pool in threadpool_info():
        library = os.path.basename(pool["filepath"])
        release = pool["version"] or "version unknown"
        pools[library] = (
            f"{pool['user_api']}, {pool['internal_api']} {release}, "
            f"{pool['num_threads']} thread(s)"
        )
    return pools


def show_versions():
    """Print the versions and the machine facts that a bug report needs.

    Python, the platform, skmm and what it depends on, torch's threads and CUDA
    devices, and the BLAS and OpenMP libraries with their number of threads.

    Examples
    --------
    >>> from skmm import show_versions
    >>> show_versions()
    System
        python: ...
    """
    sections = {
        "System": {
            "python": sys.version.replace("\n", " "),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "Packages": {"skmm": __version__, **_dependency_versions()},
        "torch": _torch_info(),
        "Thread pools": _thread_pools(),
    }
    for title, facts in sections.items():
        print(title)
        for name, value in facts.items():
            print(f"    {name}: {value}")
