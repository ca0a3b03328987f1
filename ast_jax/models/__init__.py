"""The model: what it computes, from normalised features to logits. Knows nothing of files, training or checkpoints."""

from ast_jax.models.ast import AST, ASTConfig, flat_params, merge, normalise, set_params, split

__all__ = ["AST", "ASTConfig", "flat_params", "merge", "normalise", "set_params", "split"]
