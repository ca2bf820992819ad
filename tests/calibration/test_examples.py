"""The examples in the calibration's docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

from graders import calibration

MODULES = [f"{calibration.__name__}.{found.name}" for found in pkgutil.iter_modules(calibration.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_an_example_in_a_docstring_gives_what_it_says(name):
    assert not doctest.testmod(importlib.import_module(name)).failed
