import doctest
from types import ModuleType

import pytest

from tokengym.agents import losses, sampling


@pytest.mark.parametrize("module", [losses, sampling])
def test_the_examples_in_docstrings_are_true(module: ModuleType):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
