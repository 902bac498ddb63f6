"""What transformers says by itself while its models and processors are loaded, kept from our users' terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide its bars, and that its image processors would like torchvision, which nothing here needs.

    Both are settings of a process; they are put back. Its switch for bars turns the hub's as well, and may not turn on
    what a user's environment has turned off.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not declared so
        are_progress_bars_disabled,
    )
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
