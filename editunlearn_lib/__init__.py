"""Editing as unlearning: editing and unlearning methods behind one protocol.

import editunlearn_lib as eu
model, tokenizer = eu.load_model("pocket")
split = eu.load_split("factual", n_forget=40, seed=0)
patch = eu.unlearn(model, tokenizer, split, method="memit")
with patch.on(model):
    records = eu.evaluate(model, tokenizer, split)
eu.summarise(records)
"""

from . import attacks, covariance, losses, metrics, rating, show, stats, study
from .covariance import CovarianceSource
from .data import QA, ForgetSplit, load_split
from .errors import (
    DatasetError,
    EditUnlearnError,
    ModelLoadError,
    PatchError,
    RequestError,
    StoreError,
    StudyError,
    TrainingError,
    UnknownNameError,
    UnsupportedModelError,
)
from .evaluation import evaluate, generate, summarise
from .hparams import preset
from .methods import METHODS, load_plugins
from .models import load_model
from .paper import paper_tables, paper_text
from .patch import Patch, load_patch
from .pocket import sources as _sources  # noqa: F401 (the pocket adds its covariance and its retrained model)
from .unlearn import unlearn

__version__ = "0.3.0"
# fmt: off
__all__ = [
    "METHODS", "QA", "CovarianceSource", "DatasetError", "EditUnlearnError", "ForgetSplit", "ModelLoadError",
    "Patch", "PatchError", "RequestError", "StoreError", "StudyError", "TrainingError", "UnknownNameError",
    "UnsupportedModelError", "attacks", "covariance", "evaluate", "generate", "load_model", "load_patch",
    "load_split", "losses", "metrics", "paper_tables", "paper_text", "preset", "rating", "show", "stats", "study",
    "summarise", "unlearn",
]
# fmt: on

load_plugins()
