"""A recipe that names weights starts from them where they can be had, and nobody chose otherwise."""

import json

import pytest

from ast_jax.commands import invoke
from ast_jax.commands.starting import started
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe
from ast_jax.weights import catalogue

CED = "mispeech/ced-tiny"


@pytest.fixture
def network(monkeypatch) -> list[str]:
    """What is fetched, by a network that has everything."""
    fetched: list[str] = []
    monkeypatch.setattr(catalogue, "fetch", fetched.append)
    return fetched


def test_weights_that_can_be_had_are_what_a_run_starts_from(network, capsys):
    found = started(Recipe("folder:seconds=2,multi", (("epochs", "3"),)))
    config = found.config()
    assert network == [CED]
    assert (config.init_from, config.model.family, config.model.variant) == (CED, "ced", "tiny")
    assert (config.epochs, config.loss, config.num_frames) == (3, "bce", 201)
    told = capsys.readouterr().err
    assert f"starts from {CED} (0.481 mAP" in told
    assert "from scratch it is folder:seconds=2,multi,scratch" in told


def test_without_a_network_it_starts_from_scratch_and_says_so(capsys):
    """No stand-in: tests are offline, and nothing is in the hub client's cache."""
    recipe = Recipe("folder:seconds=2")
    assert started(recipe) == recipe
    told = capsys.readouterr().err
    assert told.startswith("from scratch: https://huggingface.co/mispeech/ced-tiny cannot be reached")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "chosen",
    [
        Recipe("folder:scratch"),
        Recipe("folder:pretrained", (("init_from", "other"),)),
        Recipe("folder:model=cnn6"),
        Recipe("folder", (("model.depth", "2"),)),
        Recipe("folder", (("init_from", "other"),)),
        Recipe("folder", (("teacher", "large"),)),
        Recipe("esc50"),
    ],
    ids=lambda recipe: " ".join(recipe.flags()),
)
def test_what_was_chosen_stands(network, chosen):
    assert started(chosen) == chosen
    assert network == []


def test_a_run_goes_on_from_what_it_began_with(network, tmp_path):
    """From scratch though the weights can be had by now; from them though they are fetched no more."""
    for stored, changed in ({"init_from": ""}, False), ({"init_from": CED}, True):
        (tmp_path / "config.json").write_text(json.dumps(stored))
        assert (started(Recipe("folder"), tmp_path) != Recipe("folder")) == changed
    assert network == []


def test_a_mistake_is_told_before_anything_is_fetched(network):
    with pytest.raises(InputError, match="no suffix 'fast'"):
        started(Recipe("folder:fast"))
    assert network == []


def test_an_accelerator_bears_a_larger_one(network, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert started(Recipe("folder")).config().init_from == "ast_audioset_10_10_0.4593"
    assert started(Recipe("folder:cpu")).config().init_from == CED
    assert network == ["ast_audioset_10_10_0.4593", CED]


def test_every_command_asks(network, monkeypatch, tmp_path):
    """Else sounds would be prepared for another front end than the one that is trained."""
    seen = []
    monkeypatch.setattr("ast_jax.training.data.opened", lambda settings, beam: seen.append(settings) or 1 / 0)
    for command in ("prepare",):
        with pytest.raises(ZeroDivisionError):
            invoke(command, ["--config=folder", f"--config.dataset.source_dir={tmp_path}"])
    assert seen[0].start.init_from == CED
