"""The examples in the docstrings hold, and importing the package stays light."""

import doctest
import subprocess
import sys
from importlib import import_module

import pytest

MODULES = (
    "agreement", "alpha", "alt_test", "comparison", "decision", "errors", "icc", "inference", "noise", "passes", "probes", "rank", "rates",
    "reliability", "result", "sampling", "weighted",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docstrings_come_out(name):
    failed, tried = doctest.testmod(import_module(f"graders.calibration.{name}"))
    assert tried > 0 and failed == 0


def test_importing_the_package_loads_no_heavy_library():
    names = ", ".join(f"graders.calibration.{name}" for name in (*MODULES, "recalibration", "resample"))
    heavy = "{'scipy', 'statsmodels', 'sklearn', 'pandas', 'ppi_py', 'numba', 'django'}"
    code = f"import sys, {names}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
