"""The peak that a device reaches, from turns whose time is known."""

import jax

from ast_jax.models.cost import matrix_peak


def test_the_peak_is_that_of_the_quickest_turn():
    """Turns of 8, 4 and 16 s hold four products each: the best product took 1 s."""
    times = iter([0.0, 8.0, 10.0, 14.0, 20.0, 36.0])
    size = 1024 if jax.default_backend() == "cpu" else 8192
    assert matrix_peak(repeats=3, clock=lambda: next(times)) == 2 * size**3
