# ruff: noqa: F401 (this is what the package offers)
"""Questions, forget sets and the refusals they are edited into."""

from . import contracts
from .facts import facts
from .files import OFFICIAL
from .qa import QA, ForgetSplit
from .splits import DATASETS, covariance_facts, digest, factual, forget_sets, load_split, refusals
