"""What is kept, what comes back, and what damage does."""

import contextlib
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.checkpoints import Store, load_variables
from ast_jax.checkpoints.store import _fingerprint_on_host, _fingerprints
from ast_jax.errors import InputError
from ast_jax.training.optim import adam
from ast_jax.training.step import init_state


@pytest.fixture(scope="module")
def template():
    return init_state({"blocks/0/a": jnp.ones((3, 4)), "b": jnp.arange(5.0)}, {}, adam(lambda step: 0.1))


def at(template, step: int) -> dict:
    return {
        **template,
        "step": jnp.int32(step),
        "params": {k: v + step for k, v in template["params"].items()},
    }


def filled(directory, template, metrics, keep_last=2) -> Store:
    store = Store(directory, template, keep_last=keep_last)
    for step, metric in enumerate(metrics, start=1):
        store.save(at(template, step), {"note": step}, metric=metric)
    store.wait()
    return store


@pytest.fixture(scope="module")
def run(tmp_path_factory, template):
    directory = tmp_path_factory.mktemp("run")
    return directory, filled(directory, template, [0.1, 0.9, 0.3, None, 0.2, float("nan")])


def test_the_newest_and_the_best_are_kept(run):
    assert run[1].steps() == [2, 5, 6]


def test_a_directory_whose_name_reads_as_a_pattern_keeps_them_too(tmp_path, template):
    """Without care `lr[0.1]` ends well, and nothing of it can be read again."""
    directory = tmp_path / "lr[0.1]*" / "run"
    with contextlib.closing(filled(directory, template, [0.1, 0.9])):
        pass
    np.testing.assert_array_equal(load_variables(directory, "best")["b"], np.arange(5.0) + 2)
    with contextlib.closing(Store(directory, template)) as again:
        assert again.restore(template).meta["note"] == 2


def test_a_restart_remembers_the_best_and_deletes_the_rest(tmp_path, template):
    """Four processes one after the other, each saving three steps: the disk never holds more than three
    checkpoints."""
    for start, metric in ((0, 0.2), (3, 0.9), (6, 0.5), (9, None)):
        with contextlib.closing(Store(tmp_path, template)) as store:
            for step, value in ((1, None), (2, metric), (3, None)):
                store.save(at(template, start + step), {}, metric=value)
            store.wait()
            steps = store.steps()
    assert steps == [5, 11, 12]
    np.testing.assert_array_equal(load_variables(tmp_path, "best")["b"], np.arange(5.0) + 5)


def test_a_step_may_take_the_states_memory_while_it_is_being_saved(tmp_path, template):
    """As the training step does, which is given its state for good."""
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)
    state = jax.tree.map(jnp.copy, template)
    with contextlib.closing(Store(tmp_path, template)) as store:
        store.save(at(state, 1) | {"params": state["params"]}, {})
        assert store.steps() == [1]
        taken = state["params"]["b"]
        jax.block_until_ready(double(state["params"]))
        store.wait()
        assert taken.is_deleted()
    np.testing.assert_array_equal(load_variables(tmp_path, "last")["b"], np.arange(5.0))


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path, template):
    filled(tmp_path, template, [0.1]).close()
    half = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", half)
    with contextlib.closing(Store(tmp_path, template)) as store:
        assert store.restore(template).meta["note"] == 1
        store.save(at(template, 2), {})
        store.wait()
    assert not half.exists()


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, template):
    """The limit on the size of a file stands for the disk's: writing fails with an error of the system's in
    both cases."""
    big = template | {"params": template["params"] | {"c": jax.random.normal(jax.random.key(0), (300, 300))}}
    store = filled(tmp_path, big, [0.1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            InputError, match=r"could not be written .* that of step 1 is whole: free some space"
        ):
            filled_again(store, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.close()
    again = Store(tmp_path, big)
    assert again.restore(big).meta["note"] == 1
    filled_again(again, big)
    assert again.steps() == [1, 2]


def filled_again(store: Store, state) -> None:
    store.save(at(state, 2), {})
    store.wait()


def test_restore_gives_back_state_and_record(run, template):
    restored = run[1].restore(template)
    assert restored.meta["note"] == 6
    assert jax.tree.structure(restored.state) == jax.tree.structure(template)
    for got, want in zip(jax.tree.leaves(restored.state), jax.tree.leaves(at(template, 6)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("which", "step"), [("best", 2), ("last", 6)])
def test_parameters_are_read_without_the_optimiser(run, template, which, step):
    params = load_variables(run[0], which)
    assert params.keys() == template["params"].keys()
    np.testing.assert_array_equal(params["blocks/0/a"], np.full((3, 4), 1.0 + step))


def test_no_checkpoint_is_an_error_with_advice(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_variables(tmp_path)
    empty = {"step": jnp.int32(0), "params": {}}
    assert Store(tmp_path, empty).restore(empty) is None


def test_damage_is_passed_over_with_a_warning(tmp_path, template, caplog):
    filled(tmp_path, template, [0.1, 0.2]).close()
    for file in (tmp_path / "checkpoints" / "2" / "params").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        restored = Store(tmp_path, template).restore(template)
    assert restored.meta["note"] == 1
    assert "checkpoint 2 is damaged" in caplog.text


def test_a_wrong_value_that_storage_reads_happily_is_noticed(tmp_path, template, caplog):
    filled(tmp_path, template, [0.1, 0.2]).close()
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    text = meta.read_text()
    value = text.split('"params:b": ')[1].split(",")[0].rstrip("}")
    meta.write_text(text.replace(f'"params:b": {value}', f'"params:b": {int(value) ^ 1}'))
    with pytest.raises(InputError, match="differ from their recorded digest"):
        load_variables(tmp_path, "last")
    store = Store(tmp_path, template)
    with caplog.at_level(logging.WARNING):
        assert store.restore(template).meta["note"] == 1
    assert "params:b" in caplog.text
    assert store.steps() == [1]  # so that step 2 can be saved again


def test_if_all_are_damaged_nothing_is_deleted(tmp_path, template):
    filled(tmp_path, template, [0.1, 0.2]).close()
    for step in ("1", "2"):
        (tmp_path / "checkpoints" / step / "meta" / "metadata").write_text("{")
    store = Store(tmp_path, template)
    with pytest.raises(InputError, match="none of the 2 checkpoints"):
        store.restore(template)
    assert store.steps() == [1, 2]


def test_a_step_is_saved_again_after_its_evaluation(tmp_path, template):
    store = filled(tmp_path, template, [None])
    store.save(at(template, 1), {"note": "evaluated"}, metric=0.5)
    store.wait()
    assert store.restore(template).meta["note"] == "evaluated"


def test_an_average_without_epochs_in_it_is_not_given_out(tmp_path, template):
    state = template | {"average": {key: jnp.zeros_like(value) for key, value in template["params"].items()}}
    with contextlib.closing(Store(tmp_path, state)) as store:
        store.save(at(state, 1), {"averaged": 0})
        store.wait()
        with pytest.raises(InputError, match="has not reached the first epoch"):
            load_variables(tmp_path, "average")


def test_no_single_flipped_bit_keeps_the_fingerprint():
    words = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32)
    before = _fingerprint_on_host(words.view(np.float32))
    for position, bit in [(0, 0), (0, 31), (17, 5), (299, 31), (256, 0)]:
        flipped = words.copy()
        flipped[position] ^= np.uint32(1 << bit)
        assert _fingerprint_on_host(flipped.view(np.float32)) != before


def test_the_fingerprint_is_the_same_on_the_devices():
    """On sums that overflow 32 bits many times over; the order of the numbers counts."""
    leaf = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)
    leaves = [leaf, leaf.T, np.array(7, np.int32), np.zeros(0, np.float32)]
    on_host = [_fingerprint_on_host(one) for one in leaves]
    assert [int(one) for one in _fingerprints([jnp.asarray(one) for one in leaves])] == on_host
    assert on_host[0] != on_host[1]
