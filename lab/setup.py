"""Settings of an editable install that pyproject.toml cannot express."""

from typing import Any

from setuptools import setup
from setuptools.command import build_py, editable_wheel

# setuptools takes the parent of `tokengym.lab` for a namespace package, and would hide the suite's
# own `tokengym` behind an empty one. The finder of `tokengym.lab` alone is enough.
editable_wheel._find_virtual_namespaces = lambda roots: iter(())


class WithoutThisFile(build_py.build_py):
    """Leaves this file, which stands in the package's folder, out of the wheel."""

    def find_package_modules(self, package: str, package_dir: str) -> list[Any]:
        """See the base class."""
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "setup"]


if __name__ == "__main__":
    setup(cmdclass={"build_py": WithoutThisFile})
