"""Import Paddle without its side effects."""

from __future__ import annotations

import logging
import warnings


def quiet_import_paddle() -> None:
    """Import ``paddle`` so that nothing is printed and the program's logging stays as it was.

    Importing Paddle warns that ccache is missing (it matters only to Paddle's own build tool), and gives the
    root logger a handler and the level INFO, which would print the messages of every library of the program.
    Does nothing if Paddle is already imported.

    Raises:
        ImportError: Paddle is not installed, or broken.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
            import paddle  # noqa: F401
    finally:
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)
        root.setLevel(level)
