"""One torch thread, repeatable property tests, and what tests share."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings

# scikit-learn's array-API check runs only with this, set before SciPy is imported.
os.environ["SCIPY_ARRAY_API"] = "1"

# Two threads on two busy cores make the checks 10 to 40 times slower.
torch.set_num_threads(1)

# scikit-learn's array-API check runs only with it. SciPy reads it when it is imported,
# which nothing above does.
os.environ["SCIPY_ARRAY_API"] = "1"

# A slow machine is no failure, and CI draws the same examples on every run.
settings.register_profile("local", deadline=None)
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items):
    """Skip the tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def global_rng_untouched():
    """Fail the test if it moves numpy's or torch's global random state."""
    kind, keys, *rest = np.random.get_state()
    torch_state = torch.get_rng_state()
    yield
    kind_after, keys_after, *rest_after = np.random.get_state()
    assert (kind, rest) == (kind_after, rest_after), "numpy's global RNG was used"
    assert np.array_equal(keys, keys_after), "numpy's global RNG was used"
    torch_state_after = torch.get_rng_state()
    assert torch.equal(torch_state, torch_state_after), "torch's global RNG was used"
