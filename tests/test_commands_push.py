"""`push`: what would be sent and what is, before a hub that is not there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, build, host_variables
from ast_jax.weights import LoadedModel, hub
from ast_jax.weights.convert import save


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory of ours."""
    config = ASTConfig(num_classes=2, num_frames=32, width=8, depth=1, num_heads=2, strides=(16, 16))
    model = build("ast", config)
    assert isinstance(model, AST)
    loaded = LoadedModel(model, ["frog", "rain"], model.front_end.with_statistics(-6.0, 5.0), "softmax")
    directory = tmp_path_factory.mktemp("push") / "frogs"
    save(loaded, directory, facts={"source": "frogs"})
    return directory, host_variables(model)


@pytest.fixture
def sent(monkeypatch):
    """What the client was asked for, with the files' contents."""
    asked: list = []

    class Api:
        def create_repo(self, repository, *, private, exist_ok):
            asked.append(("create", repository, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            arrays = load_file(folder_path / "model.safetensors")
            texts = {name: (folder_path / name).read_text() for name in ("README.md", "model_card.json")}
            asked.append(("upload", repo_id, sorted(f.name for f in folder_path.iterdir()), arrays, texts))
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(hub, "_answers", lambda url: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    return asked


FILES = ["README.md", "model.safetensors", "model_card.json"]


def test_a_model_is_sent_whole_with_its_card(run, sent, capsys):
    directory, arrays = run
    invoke("push", [str(directory), "me/frogs", "--private"])
    assert sent[0] == ("create", "me/frogs", True, True)
    _, repository, files, stored, texts = sent[1]
    assert (repository, files) == ("me/frogs", FILES)
    assert stored.keys() == arrays.keys()
    assert all(np.array_equal(stored[path], arrays[path]) for path in arrays)
    assert texts["README.md"].split("\n# ")[1].startswith("frogs\n")
    assert json.loads(texts["model_card.json"])["label_names"] == ["frog", "rain"]
    assert "sent: https://huggingface.co/me/frogs/commit/1" in capsys.readouterr().out


def test_a_dry_run_sends_nothing_and_needs_no_token(run, sent, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    invoke("push", [str(run[0]), "me/frogs", "--dry_run"])
    told = capsys.readouterr().out
    assert not sent
    assert all(name in told for name in FILES)
    assert "nothing was sent: these files would be a commit to https://huggingface.co/me/frogs" in told


def test_what_cannot_be_sent_is_one_line(run, sent, monkeypatch):
    directory = str(run[0])
    for name in ("frogs", "me/frogs/more", "me/fro gs"):
        with pytest.raises(InputError, match="is no name of a repository"):
            invoke("push", [directory, name])
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(InputError, match="wants a token to write with"):
            invoke("push", [directory, "me/frogs"])
    monkeypatch.setattr(hub, "_answers", lambda url: False)
    with pytest.raises(InputError, match="cannot be reached: nothing was sent"):
        invoke("push", [directory, "me/frogs"])
    assert not sent


def test_a_refusal_is_one_line(run, sent, monkeypatch):
    from huggingface_hub.errors import HfHubHTTPError

    class Refuses:
        def create_repo(self, *_, **__):
            response = SimpleNamespace(headers={}, request=None, status_code=403)
            raise HfHubHTTPError("403 Forbidden: not yours\nmore", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi", Refuses)
    with pytest.raises(InputError, match=r"me/frogs refuses: 403 Forbidden: not yours$"):
        invoke("push", [str(run[0]), "me/frogs"])
