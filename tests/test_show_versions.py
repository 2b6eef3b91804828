"""`show_versions` names everything a report needs, whatever is installed."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from skmm import _show_versions
from skmm._show_versions import DEPENDENCIES, show_versions
from skmm._version import __version__


@pytest.fixture
def printed(capsys):
    show_versions()
    return capsys.readouterr().out.splitlines()


def test_own_version_and_dependencies(printed):
    assert f"    skmm: {__version__}" in printed
    assert f"    torch: {version('torch')}" in printed
    for name in DEPENDENCIES:
        assert any(line.startswith(f"    {name}: ") for line in printed)


def test_torch_facts(printed):
    assert f"    threads: {torch.get_num_threads()}" in printed
    assert f"    CUDA available: {torch.cuda.is_available()}" in printed


def test_thread_pools_are_listed(printed):
    pools = printed[printed.index("Thread pools") + 1 :]
    assert any("openmp" in line and "thread(s)" in line for line in pools)


def test_missing_package_is_said_to_be_missing(monkeypatch, capsys):
    def version_without_polars(name):
        if name == "polars":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(_show_versions, "version", version_without_polars)
    show_versions()
    assert "    polars: not installed" in capsys.readouterr().out.splitlines()
