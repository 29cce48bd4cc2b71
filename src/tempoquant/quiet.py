"""Silencing what libraries print on a command line that says nothing about the user's model."""

import importlib
import logging
import warnings

from tempoquant.imports import after_import

OF_LIBRARIES = {
    "transformers.utils.import_utils": "requires torchvision",
    "transformers.modeling_utils": "loss_type=",
}
"""Messages by the logger that they come from."""


def quiet_libraries() -> None:
    """Silence, library by library, bars of single files and advice to the libraries' own callers.

    Libraries that are not imported yet are silenced when they are.
    """
    after_import("diffusers.utils.logging", _quiet_diffusers)
    after_import("transformers.utils.logging", _quiet_transformers)
    for logger in OF_LIBRARIES:
        logging.getLogger(logger).addFilter(_about_the_model)
    warnings.filterwarnings("ignore", module=r"torchvision\b")
    warnings.filterwarnings("ignore", message="Accessing config attribute", category=FutureWarning)


def _quiet_diffusers() -> None:
    importlib.import_module("diffusers.utils.logging").set_verbosity_error()


def _quiet_transformers() -> None:
    importlib.import_module("transformers.utils.logging").disable_progress_bar()


def _about_the_model(record: logging.LogRecord) -> bool:
    return OF_LIBRARIES[record.name] not in record.getMessage()
