"""Figures, plots and the report of a run. `metrics` costs NumPy only; matplotlib comes in with the plots."""
