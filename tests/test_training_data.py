"""How a recipe's epoch is filled from a prepared set."""

from unittest import mock

import pytest

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.settings import Run, Settings
from ast_jax.training import data


@pytest.mark.parametrize(
    ("clips", "run", "steps", "draws"),
    [
        (10, {}, 3, 10),
        (10, {"least_steps": 3}, 3, 10),
        (10, {"least_steps": 7}, 7, 28),
        (40, {"least_steps": 7}, 10, 40),
        (10, {"epoch_steps": 2, "least_steps": 7}, 2, 8),
    ],
)
def test_an_epoch_of_a_small_set_takes_its_clips_more_than_once(clips, run, steps, draws):
    settings, prepared = Settings(run=Run(batch_size=4, epochs=2, **run)), mock.Mock(spec=PreparedSet)
    prepared.num_examples.return_value, prepared.known.return_value = clips, None
    prepared.source.return_value = [{"id": str(i)} for i in range(clips)]
    assert data.epoch_steps(settings, prepared) == steps
    stream = data.train_stream(settings, prepared)
    assert (stream.slots, stream.draws.size) == (4 * steps, draws)
    counts = [[stream[p].get("id") for p in range(4 * steps)].count(str(i)) for i in range(clips)]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == draws
