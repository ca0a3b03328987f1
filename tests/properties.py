"""How many inputs a property is tried with: a few in the tests, AST_JAX_PROPERTIES times as many in
`python -m benchmarks.prove_properties`.
"""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("AST_JAX_PROPERTIES", "1"))


def tried(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
