"""Docstrings of the public names follow numpydoc and agree with the signatures."""

import ast
import configparser
import importlib
import inspect
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

PUBLIC_MODULES = (
    "skmm",
    "skmm.core.transport",
    "skmm.datasets",
    "skmm.metrics",
    "skmm.modalities",
    "skmm.plotting",
    "skmm.vision",
)
SETUP_CFG = Path(__file__).parents[1] / "setup.cfg"


def configured_checks():
    """The codes listed in setup.cfg, which `numpydoc lint` reads too."""
    parser = configparser.ConfigParser()
    parser.read(SETUP_CFG, encoding="utf-8")
    listed = parser["tool:numpydoc_validation"]["checks"]
    return {code.strip() for code in listed.split(",") if code.strip()}


def public_objects():
    """Name -> class or function, each under the first module that offers it."""
    found = {}
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            obj = getattr(module, name)
            documented = inspect.isclass(obj) or inspect.isfunction(obj)
            if documented and obj not in found.values():
                found[f"{module_name}.{name}"] = obj
    return found


def public_methods(name, cls):
    """Name -> public method or property that the class itself defines."""
    return {
        f"{name}.{attribute}": value
        for attribute, value in vars(cls).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod))
    }


OBJECTS = public_objects()
METHODS = {
    method: value
    for name, obj in OBJECTS.items()
    if inspect.isclass(obj)
    for method, value in public_methods(name, obj).items()
}
# A warning category takes no parameters and is shown where it is raised.
USABLE = {
    name: obj
    for name, obj in OBJECTS.items()
    if not (inspect.isclass(obj) and issubclass(obj, Warning))
}
CALLABLES = {
    name: getattr(obj, "__func__", obj)
    for name, obj in {**USABLE, **METHODS}.items()
    if not isinstance(obj, property)
}
CHECKS = configured_checks()


@pytest.mark.parametrize("name", [*OBJECTS, *METHODS])
def test_numpydoc(name):
    errors = [
        f"{code}: {text}" for code, text in validate(name)["errors"] if code in CHECKS
    ]
    assert not errors, f"{name}\n" + "\n".join(errors)


@pytest.mark.parametrize("name", USABLE)
def test_has_examples(name):
    assert get_doc_object(USABLE[name])["Examples"], f"{name} has no Examples section"


def stated_defaults(function):
    """Parameter -> the text after `default=` in its type, None without one."""
    stated = {}
    for parameter in get_doc_object(function)["Parameters"]:
        _, found, text = parameter.type.partition("default=")
        stated[parameter.name] = text.strip() if found else None
    return stated


def same_default(text, value):
    """Whether the text, read as a Python literal where it is one, is the value."""
    try:
        return ast.literal_eval(text) == value
    except (SyntaxError, ValueError):
        return text in (repr(value), str(value), getattr(value, "__name__", None))


@pytest.mark.parametrize("name", CALLABLES)
def test_defaults_agree_with_the_signature(name):
    stated = stated_defaults(CALLABLES[name])
    errors = []
    for parameter in inspect.signature(CALLABLES[name]).parameters.values():
        text, default = stated.get(parameter.name), parameter.default
        if default is parameter.empty:
            if text is not None:
                errors.append(
                    f"{parameter.name}: {text} is stated, there is no default"
                )
        # `y=None` and `input_features=None` stand there for scikit-learn's API alone.
        elif default is None and parameter.name in ("y", "input_features"):
            continue
        elif text is None or not same_default(text, default):
            errors.append(f"{parameter.name}: {text} is stated, it is {default!r}")
    assert not errors, f"{name}\n" + "\n".join(errors)
