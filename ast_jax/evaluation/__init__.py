"""Figures, plots and the report of a run. Names are imported on first use, so that metrics cost NumPy only."""

from importlib import import_module

_HOMES = {
    "accuracy": "ast_jax.evaluation.metrics",
    "average_precision": "ast_jax.evaluation.metrics",
    "bootstrap_interval": "ast_jax.evaluation.metrics",
    "d_prime": "ast_jax.evaluation.metrics",
    "mean_average_precision": "ast_jax.evaluation.metrics",
    "per_class": "ast_jax.evaluation.metrics",
    "published_gap": "ast_jax.evaluation.metrics",
    "roc_auc": "ast_jax.evaluation.metrics",
    "summary": "ast_jax.evaluation.metrics",
    "write_plots": "ast_jax.evaluation.plots",
    "write_report": "ast_jax.evaluation.report",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(
            f"module 'ast_jax.evaluation' has no attribute {name!r}; it offers {', '.join(_HOMES)}"
        )
    return getattr(import_module(_HOMES[name]), name)
