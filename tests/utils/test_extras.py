"""Optional dependencies."""

from __future__ import annotations

import pytest

from pruning.errors import PruningError
from pruning.utils.extras import require_extra


def test_a_missing_package_is_refused_with_the_command_that_installs_its_extra() -> None:
    with pytest.raises(PruningError, match=r"^--fast needs .*no_such_package.*pip install -e '\.\[speed\]'"):
        require_extra("--fast", "no_such_package", "speed")


def test_an_installed_package_is_accepted() -> None:
    require_extra("--fast", "pytest", "speed")
