"""Credit rules, one file per rule; importing the package registers all of them by name."""

from importlib import import_module
from pkgutil import iter_modules

from tokengym.rewards.credits.abc import ABC
from tokengym.rewards.credits.abc_signed import SignedABC
from tokengym.rewards.credits.base import Credit, register_credit
from tokengym.rewards.credits.controls import Random, Recency
from tokengym.rewards.credits.r3 import DenseR3
from tokengym.rewards.credits.red import RED
from tokengym.rewards.credits.sparse import Sparse
from tokengym.rewards.credits.uniform import Uniform

for _module in iter_modules(__path__):  # a rule of one's own is one further file
    import_module(f"{__name__}.{_module.name}")
