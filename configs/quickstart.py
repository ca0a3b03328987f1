r"""Built-in sounds, 10 classes: from nothing to a trained tagger in minutes on two CPU cores.

  make quickstart
  python -m ast_jax.main --config=configs/quickstart.py

Words: short (two epochs on fewer clips: a smoke test).
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    config = base()
    return config
