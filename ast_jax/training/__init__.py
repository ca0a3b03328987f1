"""Training: augmentation, the optimiser, one pure step, and the loop that drives it."""
