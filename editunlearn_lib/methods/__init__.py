"""The methods: each takes a model and a forget set and gives a change of the model. One file is one method.

Importing this package registers every method of this folder, and those that installed packages name under the entry
point ``editunlearn.methods``. One that cannot be imported is left out with a warning.
"""

import importlib
import importlib.metadata
import logging
import pkgutil

from .registry import METHODS, Job, Method, Outcome, Request, register

__all__ = ["METHODS", "Job", "Method", "Outcome", "Request", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
for _plugin in importlib.metadata.entry_points(group="editunlearn.methods"):
    try:
        _plugin.load()
    except Exception as _error:
        logging.getLogger(__name__).warning("the method %s (%s) is left out: %s", _plugin.name, _plugin.value, _error)
