"""The commands that only bring rooms together: prepare, evaluate, convert."""

import argparse
import sys
from collections.abc import Sequence

from ast_jax.config import parse
from ast_jax.errors import InputError


def prepare(argv: Sequence[str]) -> None:
    """python -m ast_jax prepare --config=configs/esc50.py --config.dataset.source_dir=DIR"""
    config, _, rest = parse(argv)
    argparse.ArgumentParser("python -m ast_jax prepare", description=prepare.__doc__).parse_args(rest)

    from ast_jax.training.setup import open_data

    prepared = open_data(config)
    print(prepared.directory)
