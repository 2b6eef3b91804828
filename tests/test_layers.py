"""Imports go one way: estimators -> fitting -> core, estimators -> modalities."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skmm

PACKAGE = Path(skmm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Which other layers a layer may import. A layer is a folder or a module directly under
# skmm/; modules with a leading underscore (the version, shared helpers) are in none.
MAY_IMPORT = {
    "estimators": {
        "fitting",
        "core",
        "modalities",
        "scaling",
        "marginals",
        "projection",
    },
    "fitting": {"core", "modalities", "scaling", "projection"},
    "core": set(),
    "modalities": {"scaling"},
    "scaling": {"modalities"},
    "marginals": set(),
    "projection": {"modalities", "scaling"},
    "datasets": {"modalities"},
    "metrics": set(),
    "plotting": set(),
    "vision": {"core", "modalities"},
}
THIRD_PARTY_FORBIDDEN = {
    "core": {"sklearn", "skorch"},
    "modalities": {"torch", "skorch"},
    "scaling": {"torch", "skorch"},
    "marginals": {"torch", "skorch"},
    "projection": {"torch", "skorch"},
}
OPTIONAL = {"matplotlib", "pandas", "polars", "transformers", "PIL"}


def dotted_name(path):
    """skmm/core/linalg.py -> ("skmm", "core", "linalg")."""
    parts = ("skmm", *path.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def layer_of(parts):
    """The layer of a dotted name; "" for skmm itself and its private modules."""
    return parts[1] if len(parts) > 1 and not parts[1].startswith("_") else ""


def imported_names(node, path):
    """Full dotted names that one import statement brings in, as tuples."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    base = tuple(node.module.split(".")) if node.module else ()
    if node.level:
        here = dotted_name(path)
        package = here if path.name == "__init__.py" else here[:-1]
        base = package[: len(package) - node.level + 1] + base
    # `from skmm import core` names a layer, so the alias belongs to the dotted name.
    return [(*base, alias.name) for alias in node.names]


def imports(path):
    """Every import of a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_names(node, path)


def module_level_imports(path):
    """The imports that run when the module is imported."""
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_names(node, path)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def short(path):
    return str(path.relative_to(PACKAGE))


IN_LAYERS = [path for path in FILES if layer_of(dotted_name(path))]


def test_every_layer_has_a_rule():
    layers = {layer_of(dotted_name(path)) for path in FILES} - {""}
    assert layers <= set(MAY_IMPORT), "add the new layer to MAY_IMPORT"


@pytest.mark.parametrize("path", IN_LAYERS, ids=short)
def test_direction_between_layers(path):
    layer = layer_of(dotted_name(path))
    own = [name for name in imports(path) if name[0] == "skmm"]
    # `import skmm` would pull the estimators in from below, whatever is used of it.
    assert ("skmm",) not in own, "import the module that defines the name, not skmm"
    found = {layer_of(name) for name in own} - MAY_IMPORT[layer] - {layer, ""}
    assert not found, f"skmm/{layer} may not import {found} from skmm"


@pytest.mark.parametrize("layer", sorted(THIRD_PARTY_FORBIDDEN))
def test_third_party_imports(layer):
    files = [path for path in FILES if layer_of(dotted_name(path)) == layer]
    found = {
        f"{short(path)} imports {name[0]}"
        for path in files
        for name in imports(path)
        if name[0] in THIRD_PARTY_FORBIDDEN[layer]
    }
    assert not found


@pytest.mark.parametrize("path", FILES, ids=short)
def test_optional_packages_are_imported_where_used(path):
    found = {name[0] for name in module_level_imports(path)} & OPTIONAL
    assert not found, f"import {found} inside the function that needs it"


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


def test_import_brings_no_plotting():
    done = run("import skmm, sys; sys.exit('matplotlib' in sys.modules)")
    assert done.returncode == 0, done.stderr or "import skmm imports matplotlib"


def test_imports_without_the_optional_packages():
    # scikit-learn itself imports pandas where it is installed, so its absence from
    # sys.modules cannot be asked; that skmm does without it can.
    done = run(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))\n"
        "import skmm, skmm.datasets, skmm.metrics, skmm.modalities, skmm.plotting\n"
        "import skmm.vision\n"
    )
    assert done.returncode == 0, done.stderr
