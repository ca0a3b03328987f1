"""Models: what they compute, from normalised features to logits.

They know nothing of files, training or checkpoints.
"""

from ast_jax.models.ast import AST, ASTConfig
from ast_jax.models.base import (
    abstract,
    best_dtype,
    build,
    family,
    family_name,
    host_variables,
    merge,
    num_parameters,
    set_variables,
    settled,
    split,
    variables,
)
from ast_jax.models.kernels import kernels_on, using

__all__ = [
    "AST",
    "ASTConfig",
    "abstract",
    "best_dtype",
    "build",
    "family",
    "family_name",
    "host_variables",
    "kernels_on",
    "merge",
    "num_parameters",
    "set_variables",
    "settled",
    "split",
    "using",
    "variables",
]
