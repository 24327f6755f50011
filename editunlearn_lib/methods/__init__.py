"""The methods: each takes a model and a forget set and gives a change of the model. One file is one method.

Importing this package registers every method of this folder; `load_plugins`, which the library calls, those of others.
"""

import importlib
import importlib.metadata
import logging
import pkgutil

from .registry import METHODS, Job, Method, Outcome, Request, register

__all__ = ["METHODS", "Job", "Method", "Outcome", "Request", "load_plugins", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def load_plugins() -> None:
    """Import what installed packages name under ``editunlearn.methods``; what fails is left out, with a warning."""
    for plugin in importlib.metadata.entry_points(group="editunlearn.methods"):
        try:
            plugin.load()
        except Exception as error:  # somebody else's code: the library must not fall with it
            logging.getLogger(__name__).warning("the method %s (%s) is left out: %r", plugin.name, plugin.value, error)
