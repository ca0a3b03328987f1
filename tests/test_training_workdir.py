"""What a run's directory says of it."""

import json

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions
from ast_jax.settings import Model, Settings
from ast_jax.training import workdir
from ast_jax.training.journal import open_journal


@pytest.mark.parametrize("stored", [{"model": {"dtype": "bfloat16"}}, {"model": {}}, {}])
def test_a_run_goes_on_with_the_arithmetic_it_began_with(tmp_path, stored):
    began = stored.get("model", {}).get("dtype", "float32")
    assert workdir.begun(tmp_path, Settings()).model.dtype == "auto"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert workdir.begun(tmp_path, Settings()).model.dtype == began
    asked = Settings(model=Model(dtype="float32"))
    assert workdir.begun(tmp_path, asked) is asked


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_damaged_settings_are_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json .*(cannot be read|is damaged)"):
        workdir.begun(tmp_path, Settings())


@pytest.mark.parametrize("left", [None, b"", b'{"step": 1}\n', b'{"step": 1}\n{"step": 2}\n{"st'])
def test_a_journal_that_was_cut_goes_on_and_makes_nothing_up(tmp_path, left):
    file, whole = tmp_path / "metrics.jsonl", b'{"step": 1}\n{"step": 2}\n'
    if left is not None:
        file.write_bytes(left)
    journal = open_journal(tmp_path, offset=len(whole), first_step=2, total_steps=3)
    journal.write({"kind": "train", "step": 3})
    journal.close()
    kept = whole if left is not None and left.startswith(whole) else left or b""
    assert file.read_bytes() == kept + b'{"kind": "train", "step": 3}\n'


def test_thresholds_of_steps_are_of_the_best_weights_alone(tmp_path):
    card = {"label_names": ["a", "b"], "model": {}}
    scored = Predictions(["x", "y"], np.array([[0.2, 0.4], [0.6, 0.1]]), np.eye(2)[::-1], 0.1)
    workdir.write_card(tmp_path, card, scored)
    before = json.loads((tmp_path / "model_card.json").read_text())
    assert len(before["thresholds"]) == 2
    workdir.write_frame_thresholds(tmp_path, np.array([0.25, np.nan]))
    after = json.loads((tmp_path / "model_card.json").read_text())
    assert after == before | {"frame_thresholds": [0.25, None]}
    # a better epoch: its steps have not been looked at
    workdir.write_card(tmp_path, card, scored)
    assert json.loads((tmp_path / "model_card.json").read_text()) == before
