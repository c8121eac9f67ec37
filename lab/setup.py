"""What pyproject.toml cannot say about an editable install; see there for everything else."""

from setuptools import setup
from setuptools.command import editable_wheel

# setuptools takes the parent of `tokengym.lab` for a namespace package, and would hide the suite's
# own `tokengym` behind an empty one. The finder of `tokengym.lab` alone is enough.
editable_wheel._find_virtual_namespaces = lambda roots: iter(())

if __name__ == "__main__":
    setup()
