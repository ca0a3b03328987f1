"""The catalogue is complete, and its downloads resume, are verified, and fail in one line."""

import dataclasses
import hashlib
import http.server
import json
import re
import string
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from weights_oracles import our_params

from ast_jax.errors import InputError
from ast_jax.models import build, family, host_variables
from ast_jax.weights import (
    catalogue,
    download,
    layouts,
    load_model,
    panns_layout,
    psla_layout,
    published,
    read_source,
    torch_file,
    vit_layout,
)

DATA = np.random.default_rng(0).bytes(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """DATA at any path, with ranges; /plain knows none, /short hangs up, /page is HTML, /none is 404."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        data, start, status = DATA, 0, 200
        if self.path.startswith("/none"):
            self.send_error(404)
            return
        if self.path.startswith("/page"):
            data = b"<html>sign in</html>"
        same = self.headers.get("If-Range") in (None, '"version 1"')
        if self.headers.get("Range") and same and not self.path.startswith("/plain"):
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"version 1"')
        self.end_headers()
        self.wfile.write(data[start : len(data) // 2 if self.path.startswith("/short") else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    running.url = f"http://127.0.0.1:{running.server_port}"
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_entries_are_complete():
    names = set(catalogue.entries())
    assert len([name for name in names if name.startswith("deit_") and "distilled" in name]) == 4
    assert len([name for name in names if name.startswith("ast_")]) == 8
    assert len([name for name in names if name.startswith("MIT/")]) == 8
    assert {"timm/vit_small_patch14_dinov2.lvd142m", "timm/deit3_base_patch16_384.fb_in22k_ft_in1k"} <= names
    for entry in catalogue.entries().values():
        assert entry.licence in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0 (Zenodo 3987831; code MIT)")
        assert entry.figure
        assert entry.source.startswith("https://") or entry.source.count("/") == 1
        audio = entry.name.startswith(
            ("ast_", "MIT/", "cnn", "wavegram_", "psla_", "passt_", "mispeech/")
        ) or (entry.family == "eat" and "finetune" in entry.name)
        # positions or a config say how long the clips of these are
        placed = entry.family in ("passt", "ced", "eat")
        assert (entry.num_frames is not None) == (audio and not placed), entry.name
        assert (entry.multi_label is not None) == audio, entry.name
        # the order of PSLA's classes of FSD50K is in no file
        assert (entry.labels is not None) == (audio and not entry.name.startswith("psla_fsd50k_")), entry.name
        assert (entry.strides is not None) == (audio and entry.family == "ast")
        # the first layer of PANNs and CED normalises, and PaSST has its own numbers
        stated = audio and not placed and "cnn" not in entry.family
        assert (entry.mean is not None) == (entry.std is not None) == stated
        assert re.fullmatch("([0-9a-f]{32})?", entry.md5)
        if entry.source.startswith(
            "https://dl.fbaipublicfiles"
        ):  # the name ends in the digest, as torch.hub has it
            assert entry.source.endswith(f"-{entry.sha256}.pth")
            assert re.fullmatch("[0-9a-f]{8}", entry.sha256)


def test_every_word_of_the_catalogue_is_used():
    """A key that is neither a field nor stands in the source would be a slip that says nothing."""
    fields = {field.name for field in dataclasses.fields(catalogue.Entry)} | {"task"}
    for name, table in published.table("catalogue").items():
        for own in table.pop("entries"):
            row = table | own
            words = {word for _, word, _, _ in string.Formatter().parse(row.get("source", "{name}")) if word}
            assert row.keys() <= fields | words, name
            assert row.get("task") in (None, *published.TASKS)


def test_the_published_facts():
    best = catalogue.find("ast_audioset_10_10_0.4593")
    assert best.source == "https://www.dropbox.com/s/ca0b1v2nlxzyeb4/audioset_10_10_0.4593.pth?dl=1"
    assert (best.mean, best.std, best.num_frames, best.strides) == (-4.2677393, 4.5689974, 1024, (10, 10))
    commands = catalogue.find("ast_speechcommands_10_10_0.9812")
    assert (commands.num_frames, commands.mean, commands.std) == (128, -6.845978, 5.5654526)
    assert commands.label_names()[:4] == ["backward", "follow", "five", "bed"]
    assert len(set(commands.label_names())) == 35
    assert len(set(best.label_names())) == 527
    named = {0: "Speech", 81: "Cat", 137: "Music", 283: "Wind", 388: "Alarm", 526: "Field recording"}
    assert {i: best.label_names()[i] for i in named} == named
    assert catalogue.find("deit_base_distilled_patch16_384").sha256 == "d0272ac0"


ZENODO, DROPBOX = "https://zenodo.org/record/3987831/files/", "https://www.dropbox.com/s/"
PINNED = {  # address, MD5 where one is published
    "cnn14_0.431": (f"{ZENODO}Cnn14_mAP%3D0.431.pth", "541141fa2ee191a88f24a3219fff024e"),
    "cnn14_16k_0.438": (f"{ZENODO}Cnn14_16k_mAP%3D0.438.pth", ""),
    "cnn14_8k_0.416": (f"{ZENODO}Cnn14_8k_mAP%3D0.416.pth", ""),
    "wavegram_logmel_cnn14_0.439": (
        f"{ZENODO}Wavegram_Logmel_Cnn14_mAP%3D0.439.pth",
        "17fa9ab65af3c0eb5ffbc5f65552c4e1",
    ),
    "cnn10_0.380": (f"{ZENODO}Cnn10_mAP%3D0.380.pth", "bfb1f1f9968938fa8ef4012b8471f5f6"),
    "cnn6_0.343": (f"{ZENODO}Cnn6_mAP%3D0.343.pth", "e25e26b84585b14c7754c91e48efc9be"),
    "cnn14_decision_max_0.385": (f"{ZENODO}Cnn14_DecisionLevelMax_mAP%3D0.385.pth", ""),
    "cnn14_decision_att_0.425": (
        f"{ZENODO}Cnn14_DecisionLevelAtt_mAP%3D0.425.pth",
        "c8281ca2b9967244b91d557aa941e8ca",
    ),
    "psla_audioset_0.440": (f"{DROPBOX}d1z27wj30ew5qrs/as_mdl_0.pth", ""),
    "psla_audioset_0.444": (f"{DROPBOX}ieggie0ara4x26d/as_mdl_0_wa.pth", ""),
    "psla_fsd50k_0.5585": (f"{DROPBOX}stzrmfty2oyqnnj/fsd_mdl_best_single.pth", ""),
    "psla_fsd50k_0.5616": (f"{DROPBOX}5fvybrbulvhsish/fsd_mdl_wa.pth", ""),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_addresses_of_the_other_systems(name):
    entry, (address, md5) = catalogue.find(name), PINNED[name]
    assert (entry.source.partition("?")[0], entry.md5) == (address, md5)
    assert entry.figure.startswith(f"{name.rpartition('_')[2]} mAP, ")
    others = [found for found in catalogue.entries() if found.startswith(("cnn", "wavegram_", "psla_"))]
    assert set(others) == set(PINNED)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(InputError, match=r"did you mean ast_audioset_10_10_0\.4593"):
        catalogue.find("ast_audioset_10_10_0.459")


def test_a_file_is_fetched_once_and_verified_ever_after(tmp_path, server):
    path = download.file(f"{server.url}/weights.bin?dl=1", tmp_path)
    assert path == tmp_path / "weights.bin"
    assert path.read_bytes() == DATA
    assert download.file(f"{server.url}/weights.bin?dl=1", tmp_path) == path
    assert len(server.asked) == 1
    recorded = json.loads((tmp_path / "digests.json").read_text())["weights.bin"]
    assert recorded == {"sha256": hashlib.sha256(DATA).hexdigest(), "size": len(DATA)}
    path.write_bytes(DATA[:-1] + b"?")
    with pytest.raises(InputError, match=f"delete {path} to fetch it anew"):
        download.file(f"{server.url}/weights.bin?dl=1", tmp_path)


@pytest.mark.parametrize("kind", ["ranges", "plain"])
def test_a_download_goes_on_where_it_stopped(tmp_path, server, kind):
    (tmp_path / "x.bin.part").write_bytes(DATA[:100_000])
    (tmp_path / "x.bin.tag").write_text('"version 1"')
    assert download.file(f"{server.url}/{kind}/x.bin", tmp_path).read_bytes() == DATA
    assert server.asked == [(f"/{kind}/x.bin", "bytes=100000-")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests.json", "x.bin"]


def test_a_broken_connection_keeps_what_came(tmp_path, server):
    with pytest.raises(InputError, match=r"after 150000 of 300000 bytes.*or try again to go on"):
        download.file(f"{server.url}/short/x.bin", tmp_path)
    assert (tmp_path / "x.bin.part").read_bytes() == DATA[:150_000]
    assert not (tmp_path / "x.bin").exists()


def test_a_part_of_another_file_is_fetched_again(tmp_path, server):
    sha256 = hashlib.sha256(DATA).hexdigest()[:8]
    (tmp_path / "x.bin.part").write_bytes(bytes(len(DATA) + 5))  # longer: the server has nothing there
    assert download.file(f"{server.url}/ranges/x.bin", tmp_path, sha256=sha256).read_bytes() == DATA
    assert len(server.asked) == 2
    for tag in (None, '"version 0"'):  # of an unknown version, and of an older one
        (tmp_path / "x.bin").unlink()
        (tmp_path / "x.bin.part").write_bytes(bytes(50_000))
        if tag:
            (tmp_path / "x.bin.tag").write_text(tag)
        assert download.file(f"{server.url}/ranges/x.bin", tmp_path).read_bytes() == DATA


def test_wrong_checksums_and_web_pages_are_refused_and_removed(tmp_path, server):
    right = hashlib.sha256(DATA).hexdigest()[:8]
    with pytest.raises(InputError, match="wanted deadbeef: try again"):
        download.file(f"{server.url}/x.bin", tmp_path, sha256="deadbeef")
    with pytest.raises(InputError, match="gave a web page"):
        download.file(f"{server.url}/page/x.bin", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []
    assert download.file(f"{server.url}/x.bin", tmp_path, sha256=right).exists()


def test_no_network_is_one_line_with_the_address(tmp_path, server):
    server_url = server.url
    with pytest.raises(
        InputError, match=f"cannot fetch {server_url}/none/x.bin .*404.* put it at {tmp_path}/x.bin"
    ):
        download.file(f"{server_url}/none/x.bin", tmp_path)
    with pytest.raises(InputError, match=r"cannot fetch http://127\.0\.0\.1:1/x\.bin .*refused") as caught:
        download.file("http://127.0.0.1:1/x.bin", tmp_path)
    assert "\n" not in str(caught.value)


def reference_file(path, *, depth=1):
    """A published AudioSet checkpoint in little: 1212 positions, 527 classes."""
    params = our_params(192, depth, grid=(12, 101), patch=(16, 16), classes=527)
    state = layouts.write(vit_layout.reference(depth, distilled=True), params)
    torch_file.write(path, {f"module.{key}": value for key, value in state.items()})
    return params


def test_a_name_becomes_a_model(tmp_path, monkeypatch):
    """The whole way, with a local file in the place of the published one."""
    params = reference_file(tmp_path / "audioset.pth")
    name = "ast_audioset_10_10_0.4593"
    source = (tmp_path / "audioset.pth").as_uri()
    entry = dataclasses.replace(
        catalogue.find(name), source=source, licence="CC BY-NC 4.0", non_commercial=True
    )
    monkeypatch.setitem(catalogue.entries(), name, entry)
    monkeypatch.setenv("AST_JAX_CACHE", str(tmp_path / "cache"))
    source = read_source(name)
    assert source.where == name
    assert source.config.grid == (12, 101)
    assert (source.mean, source.std) == published.AUDIOSET
    assert (source.label_names[0], source.activation, source.channels) == ("Speech", "sigmoid", "first")
    np.testing.assert_array_equal(source.arrays["head/kernel"], params["head/kernel"])
    assert source.notes[-1] == f"{name} is under CC BY-NC 4.0: not for commercial use"
    assert (tmp_path / "cache" / "audioset.pth").exists()


def stand_in(path: Path, name: str, **options) -> dict[str, np.ndarray]:
    """A published PANN's or PSLA's file in little, and its arrays under our paths."""
    model = build(name, family(name).Config(num_frames=64, **options))
    arrays = {key: np.asarray(value) for key, value in host_variables(model).items()}
    if name == "psla":
        rows = psla_layout.rows_of(options["scale"]) + psla_layout.heads()
        state = layouts.write(rows, arrays)
        torch_file.write(path, {f"module.{key}": value for key, value in state.items()})
    else:
        state = layouts.write(panns_layout.rows_of(name, model.config), arrays)
        state |= panns_layout.front_end_arrays(model.config.sample_rate_hz)
        torch_file.write(path, state, inside="model")
    return arrays


NARROW = {"channels": (4, 4, 4, 4, 4, 8), "num_classes": 527}


@pytest.mark.parametrize(
    ("name", "kind", "options", "heard"),
    [
        ("cnn14_0.431", "cnn14", NARROW, (32_000, 1001, 0.0, 1.0)),
        ("cnn14_8k_0.416", "cnn14", NARROW | {"sample_rate_hz": 8_000}, (8_000, 1001, 0.0, 1.0)),
        # the same names in the file: only the catalogue tells that these are frames' scores
        ("cnn14_decision_max_0.385", "cnn14_decision_max", NARROW, (32_000, 1001, 0.0, 1.0)),
        ("psla_audioset_0.444", "psla", {"scale": "tiny"}, (16_000, 1056, -4.6476, 4.5699)),
        (
            "psla_fsd50k_0.5616",
            "psla",
            {"scale": "tiny", "num_classes": 200},
            (16_000, 3000, -4.6476, 4.5699),
        ),
    ],
)
def test_the_other_systems_names_become_models(tmp_path, monkeypatch, name, kind, options, heard):
    arrays = stand_in(tmp_path / "published.pth", kind, **options)
    address = (tmp_path / "published.pth").as_uri()
    entry = dataclasses.replace(catalogue.find(name), source=address, md5="")
    monkeypatch.setitem(catalogue.entries(), name, entry)
    monkeypatch.setenv("AST_JAX_CACHE", str(tmp_path / "cache"))
    source, loaded = read_source(name), load_model(name)
    assert (source.family, source.activation) == (kind, "sigmoid")
    assert source.arrays.keys() == arrays.keys()
    for path, value in arrays.items():
        np.testing.assert_array_equal(source.arrays[path], value, err_msg=path)
    front_end = loaded.front_end
    rate_hz, frames, mean, std = heard
    assert (front_end.sample_rate_hz, loaded.model.config.num_frames) == (rate_hz, frames)
    assert (front_end.mean, front_end.std) == (mean, std)
    notes = " ".join(source.notes)
    if "fsd50k" in name:
        assert f"normalisation is that published with {name}" in notes
        assert "its 200 classes have no names in the file: --labels gives them" in notes
        assert source.label_names is None
    else:
        assert source.label_names == published.labels("audioset")
        assert source.notes == [f"normalisation and classes are those published with {name}"]


def hub_cache(root: Path, repository: str, files: dict[str, bytes]) -> Path:
    """A cache as the hub's client leaves it."""
    folder = root / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return root


def test_a_hub_repository_from_its_cache(tmp_path, monkeypatch):
    params = our_params(192, 1, distilled=True, grid=(14, 14), patch=(16, 16), channels=3, classes=0)
    save_file(layouts.write(vit_layout.timm(1, distilled=True), params), tmp_path / "weights")
    config = json.dumps({"architecture": "deit_tiny_distilled_patch16_224", "num_classes": 1000}).encode()
    files = {"config.json": config, "model.safetensors": (tmp_path / "weights").read_bytes()}
    name = "timm/deit_tiny_distilled_patch16_224.fb_in1k"
    cache = hub_cache(tmp_path / "hub", name, files)
    directory = catalogue.fetch(name, hub_cache=cache)
    monkeypatch.setattr(catalogue, "fetch", lambda _: directory)
    loaded = load_model(name, num_frames=128, num_classes=3)
    assert loaded.model.config.grid == (12, 12)
    assert "from timm/deit_tiny" in loaded.notes[0]


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    name = "MIT/ast-finetuned-speech-commands-v2"
    with pytest.raises(
        InputError, match=f"https://huggingface.co/{name} cannot be reached.*give its directory"
    ):
        catalogue.fetch(name, hub_cache=tmp_path)


def test_a_published_md5_is_held_to(tmp_path, server):
    right = hashlib.md5(DATA).hexdigest()
    with pytest.raises(InputError, match="wanted MD5 00"):
        download.file(f"{server.url}/x.bin", tmp_path, md5="0" * 32)
    assert not (tmp_path / "x.bin").exists()
    assert download.file(f"{server.url}/x.bin", tmp_path, md5=right).read_bytes() == DATA
