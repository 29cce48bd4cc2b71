"""Silencing what libraries print on a command line that says nothing about the user's model."""

import logging
import warnings

import diffusers
from diffusers.utils import is_transformers_available

OF_LIBRARIES = {
    "transformers.utils.import_utils": "requires torchvision",
    "transformers.modeling_utils": "loss_type=",
}
"""Messages by the logger that they come from."""


def quiet_libraries() -> None:
    """Silence, library by library, bars of single files and advice to the libraries' own callers."""
    diffusers.utils.logging.set_verbosity_error()
    if is_transformers_available():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    for logger in OF_LIBRARIES:
        logging.getLogger(logger).addFilter(_about_the_model)
    warnings.filterwarnings("ignore", module=r"torchvision\b")
    warnings.filterwarnings("ignore", message="Accessing config attribute", category=FutureWarning)


def _about_the_model(record: logging.LogRecord) -> bool:
    return OF_LIBRARIES[record.name] not in record.getMessage()
