"""Where this program keeps between its runs what it can make again."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """What is ours of the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ast_jax")
