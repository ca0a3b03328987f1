"""Programs for machines without this package, and the card for people: each against its model."""

import contextlib
import functools
import http.server
import json
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chromium import browser, needs_chromium
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.inference.predict import Tagger
from ast_jax.models import AST, ASTConfig, abstract
from ast_jax.models import family as family_of
from ast_jax.weights import LoadedModel, card, litert_file, load_model, program, read_source
from ast_jax.weights import convert as convert_module
from ast_jax.weights.convert import Deployed, convert
from ast_jax.weights.onnx_file import onnx_runner
from ast_jax.weights.pretrained import with_config
from ast_jax.weights.stablehlo import load_exported

pytest.importorskip("flatbuffers", reason="flatbuffers, of the extra [export], is not installed")
LABELS = ["dog", "rain", "bell"]


def model(seed=0, **changes) -> LoadedModel:
    """Weights five times as large as at the start, so that faults show in the logits."""
    shape = {"num_classes": 3, "num_frames": 32, "width": 8, "depth": 2, "num_heads": 2, "strides": (16, 16)}
    net = AST(ASTConfig(**shape | changes), rngs=nnx.Rngs(seed))
    nnx.update(net, jax.tree.map(lambda value: 5 * value, nnx.state(net)))
    front_end = net.front_end.with_statistics(-6.5, 5.0)
    return LoadedModel(net, LABELS, front_end, "sigmoid", notes=["2 blocks from somewhere/weights.npz"])


@pytest.fixture(scope="module")
def loaded():
    return model()


@pytest.fixture(scope="module")
def exported(loaded, tmp_path_factory):
    """(directory, lines) of a StableHLO export."""
    directory = tmp_path_factory.mktemp("export") / "tagger"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            convert_module, "load_model", lambda src, **options: load_model(src) if options == {} else loaded
        )
        return directory, convert("somewhere/weights.npz", directory, to="stablehlo")


def features(batch):
    return np.random.default_rng(batch).normal(-6.5, 5, (batch, 32, 128)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_program_gives_the_models_logits_and_scores_at_any_batch(loaded, exported, batch):
    logits, scores = load_exported(exported[0])(features(batch))
    np.testing.assert_allclose(logits, loaded.logits(features(batch)), atol=2e-5)
    np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)
    assert np.ptp(logits) > 0.3, "a model whose logits are all alike shows nothing"


def test_one_file_holds_the_program_for_cpu_gpu_and_tpu(exported):
    program = jax.export.deserialize(bytearray((exported[0] / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[-1].shape[0]) == "batch"
    assert (exported[0] / "model.stablehlo").stat().st_size < 100_000, "the weights are beside it, not inside"


def test_the_program_follows_the_weights_beside_it(exported, tmp_path):
    """Other weights, other answers: nothing is baked in."""
    from safetensors.numpy import load_file, save_file

    (tmp_path / "model.stablehlo").write_bytes((exported[0] / "model.stablehlo").read_bytes())
    params = load_file(exported[0] / "model.safetensors")
    save_file(params | {"head/bias": params["head/bias"] + 1}, tmp_path / "model.safetensors")
    moved = load_exported(tmp_path)(features(2))[0] - load_exported(exported[0])(features(2))[0]
    np.testing.assert_allclose(moved, 1, atol=1e-5)


def test_it_says_how_far_it_is_from_the_model(exported):
    (line,) = [line for line in exported[1] if "StableHLO" in line]
    assert float(line.split("at most ")[1].split()[0]) < 2e-5


def test_the_cards_own_words_run_without_this_package(exported, loaded, tmp_path):
    """The snippet of README.md, as it stands there, in a Python that cannot see ast_jax."""
    readme = (exported[0] / "README.md").read_text()
    snippet = readme.split("```python\n")[1].split("```")[0]
    np.save(tmp_path / "x.npy", features(2))
    before = f"import numpy, sys\nfbank = numpy.load({str(tmp_path / 'x.npy')!r})"
    after = "assert 'ast_jax' not in sys.modules\nprint(numpy.asarray(logits).tolist())"
    code = f"{before}\n{snippet}\n{after}"
    done = subprocess.run([sys.executable, "-c", code], cwd=exported[0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), loaded.logits(features(2)), atol=2e-5)


def test_an_exported_directory_is_a_model_of_ours_too(exported, loaded):
    again = load_model(exported[0])
    assert again.label_names == LABELS
    np.testing.assert_array_equal(again.logits(features(2)), loaded.logits(features(2)))


def test_damage_and_other_directories_are_one_line(exported, tmp_path):
    with pytest.raises(InputError, match=r"no model\.stablehlo"):
        load_exported(tmp_path)
    (tmp_path / "model.stablehlo").write_bytes((exported[0] / "model.stablehlo").read_bytes()[:1000])
    with pytest.raises(InputError, match="export the model again"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "distilled": False,
            "patch_shape": (16, 8),
            "strides": (12, 8),
            "dtype": "bfloat16",
            "mask_even": True,
        },
    ],
)
def test_onnx_runs_any_shape_of_model_at_any_batch(changes, tmp_path, monkeypatch):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra [onnx], is not installed")
    monkeypatch.setattr(logging.getLogger("onnx_ir"), "level", logging.ERROR)
    given = model(**changes)
    monkeypatch.setattr(convert_module, "load_model", lambda src, **options: given)
    lines = convert("somewhere/weights.npz", tmp_path / "tagger", to="onnx")
    (line,) = [line for line in lines if "onnxruntime" in line]
    assert float(line.split("at most ")[1].split()[0]) < 2e-5
    run = onnx_runner(tmp_path / "tagger" / "model.onnx")
    exact = model(**changes | {"dtype": "float32"})
    for batch in (1, 4):
        fbank = features(batch)
        # a clip that ends after half of the window
        fbank[-1, 16:] = 0
        logits, scores = run(fbank)
        np.testing.assert_allclose(logits, exact.logits(fbank), atol=2e-5)
        np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)


@pytest.fixture(scope="module")
def heard():
    """Weights large enough that they are made smaller, and a sound longer than a window."""
    loaded = model(num_frames=64, width=64, mlp_width=256)
    whole = program.samples(loaded)
    return loaded, sound_of(int(2.3 * whole))


def sound_of(samples: int) -> np.ndarray:
    """Noise and a tone that rises, quiet at first."""
    t = np.arange(samples) / 16_000
    tone = np.sin(2 * np.pi * (300 + 1500 * t) * t) * np.linspace(0.01, 0.4, samples)
    return (tone + np.random.default_rng(0).normal(0, 0.02, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def by_weights(heard, tmp_path_factory):
    """{weights: (directory, lines)} of ONNX exports that take waveforms, checked on two sounds."""
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra [onnx], is not installed")
    import soundfile

    loaded, sound = heard
    directory = tmp_path_factory.mktemp("onnx")
    files = [directory / "long.wav", directory / "short.wav"]
    (directory / "broken.wav").write_bytes(b"no sound")
    for file, length in zip(files, (len(sound), 4000), strict=True):
        soundfile.write(file, sound[:length], 16_000, subtype="FLOAT")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "load_model", lambda src, **options: loaded)
        for weights in ("float32", "float16", "int8"):
            deployed = Deployed("waveform", weights, (*files, directory / "broken.wav"))
            where = directory / weights
            found[weights] = where, convert("somewhere/run", where, to="onnx", deployed=deployed)
    return found


# Of logits up to 9: rounding in two spectrograms, ten bits of mantissa, eight bits of a whole batch.
NEAR = {"float32": 1e-4, "float16": 0.05, "int8": 1.5}


@pytest.mark.parametrize("weights", NEAR)
def test_an_export_hears_waveforms_as_this_package_does(weights, by_weights, heard):
    """Whole windows, shorter sounds, and none at all, at any batch."""
    loaded, _ = heard
    run = onnx_runner(by_weights[weights][0] / "model.onnx")
    for batch in (1, 3):
        inputs = program.examples(loaded, "waveform", batch)
        inputs["num_samples"][-1] = 0 if batch == 3 else inputs["num_samples"][-1]
        inputs["waveform"][-1] *= batch != 3
        wanted = loaded.logits(program.features(loaded, inputs))
        logits, scores = run(*inputs.values())
        np.testing.assert_allclose(logits, wanted, atol=NEAR[weights])
        np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)
    assert np.ptp(wanted) > 1, "a model whose logits are all alike shows nothing"


def test_smaller_weights_are_smaller_files_and_say_what_they_cost(by_weights):
    sizes = {weights: (where / "model.onnx").stat().st_size for weights, (where, _) in by_weights.items()}
    # what is smaller is the model, not the tables of the front end
    front = 1.0e6
    assert sizes["float16"] - front < 0.6 * (sizes["float32"] - front)
    assert sizes["int8"] - front < 0.45 * (sizes["float32"] - front)
    for weights, (where, lines) in by_weights.items():
        said = "checked on 2 sounds, 1 could not be heard: "
        (line,) = [line for line in lines if line.startswith(said)]
        assert line.endswith("the same label is first in 2 of 2")
        assert sum("x as fast" in line for line in lines) == (weights != "float32")
        readme = (where / "README.md").read_text()
        assert line in readme
        assert "`waveform` [batch, 10480], mono at 16000 Hz" in readme


def test_a_program_of_stablehlo_hears_waveforms_too(heard, tmp_path):
    loaded, _ = heard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            convert_module, "load_model", lambda src, **options: load_model(src) if options == {} else loaded
        )
        convert("somewhere/run", tmp_path / "heard", to="stablehlo", deployed=Deployed("waveform"))
    inputs = program.examples(loaded, "waveform", 2)
    logits, _ = load_exported(tmp_path / "heard")(*inputs.values())
    np.testing.assert_allclose(logits, loaded.logits(program.features(loaded, inputs)), atol=1e-4)


def test_what_a_format_has_no_use_for_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--to=flax is no program: --input, --weights and --check"):
        convert("nowhere", tmp_path / "x", to="flax", deployed=Deployed("waveform"))
    with pytest.raises(InputError, match=r"--weights=int8 is for --to=onnx"):
        convert("nowhere", tmp_path / "x", to="stablehlo", deployed=Deployed(weights="int8"))


# ---- LiteRT


@pytest.mark.parametrize("takes", ["log_mel", "waveform"])
def test_litert_gives_the_models_logits_and_scores(takes, heard, by_litert):
    """In float32, on random inputs, whole windows and shorter ones; and what the card has is run."""
    loaded, _ = heard
    where, lines = by_litert(with_config(loaded, dtype="bfloat16"), takes)
    inputs = program.examples(loaded, takes, 3)
    logits, scores = litert_file.litert_runner(where / "model.tflite", takes)(*inputs.values())
    np.testing.assert_allclose(logits, loaded.logits(program.features(loaded, inputs)), atol=1e-4)
    np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)
    assert np.ptp(logits) > 1, "a model whose logits are all alike shows nothing"
    (line,) = [line for line in lines if "LiteRT" in line]
    assert float(line.split("at most ")[1].split()[0]) < 1e-4
    snippet = (where / "README.md").read_text().split("```python\n")[1].split("```")[0]
    given = {name: array[:1] for name, array in inputs.items()}
    exec(snippet.replace("model.tflite", str(where / "model.tflite")), given)
    np.testing.assert_allclose(given["scores"], scores[:1], atol=1e-6)
    with pytest.raises(InputError, match="a LiteRT export is for other machines"):
        load_model(where)


@pytest.fixture
def by_litert(tmp_path, monkeypatch):
    """(model, what it takes) -> (directory, lines) of an export."""
    for package in ("litert_converter", "ai_edge_litert"):
        pytest.importorskip(package, reason=f"{package} is not installed (docs/inference.md has the line)")

    def export(loaded, takes):
        monkeypatch.setattr(convert_module, "load_model", lambda src, **options: loaded)
        where = tmp_path / "tagger"
        return where, convert("somewhere/run", where, to="litert", deployed=Deployed(takes))

    return export


def test_what_litert_lacks_is_one_line(heard, by_litert, tmp_path, monkeypatch):
    """PaSST once gave its tokens their positions by such a scatter."""
    missing = {
        r"LiteRT cannot run .*\(Only update, Add": lambda fbank: fbank.at[:, :2].add(jnp.ones((2, 128))),
        r"litert-converter cannot write .*\(": lambda fbank: jnp.linalg.qr(fbank)[1],
    }
    for said, operation in missing.items():
        run = lambda _, fbank, operation=operation: (operation(fbank), operation(fbank))
        monkeypatch.setattr(program, "function", lambda *_, run=run: (run, {}))
        with pytest.raises(InputError, match=said + ".*: take --to=onnx"):
            by_litert(heard[0], "log_mel")
    assert not list(tmp_path.iterdir())


def test_litert_without_its_converter_is_one_line(heard, tmp_path, monkeypatch):
    monkeypatch.setattr(litert_file, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--to=litert needs `pip install --no-deps 'litert-converter"):
        litert_file.write(heard[0], tmp_path / "model.tflite")
    assert litert_file.litert_runner(tmp_path / "model.tflite") is None


FRONT_ENDS = {
    "slaney": ("cnn6", {"channels": (4, 8)}),
    "htk_decibels": ("ced", {"width": 8, "depth": 1, "num_heads": 2}),
    "passt": ("passt", {"width": 8, "depth": 1, "num_heads": 2}),
    "povey": (
        "beats",
        {"patch_width": 6, "width": 8, "depth": 1, "num_heads": 2, "mlp_width": 12}
        | {"kernel": 4, "groups": 2, "buckets": 8},
    ),
    "vggish": ("vggish_mlp", {"channels": (4, 4, 8, 8), "width": 16, "hidden": 8}),
    "samples": ("wavegram_logmel_cnn14", {"channels": (4, 8)}),
}


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_every_front_end_can_be_inside(kind):
    """The features themselves, of whole and shorter sounds: 1e-3 of a nat or decibel, float32 both."""
    name, options = FRONT_ENDS[kind]
    net = abstract(name, family_of(name).Config(num_classes=3, num_frames=96, **options))
    loaded = LoadedModel(net, list("abc"), net.front_end, "sigmoid")
    assert loaded.front_end.kind == kind
    inputs = program.examples(loaded, "waveform", 3)
    made = jax.jit(program.hear(loaded))(*inputs.values())
    np.testing.assert_allclose(made, program.features(loaded, inputs), atol=1e-3)


# ---- An export as a model of this package


@pytest.mark.parametrize("weights", NEAR)
def test_an_onnx_export_is_a_model_that_predict_takes(weights, by_weights, heard):
    """The same windows, labels and thresholds; each clip by itself, whatever comes with it."""
    loaded, sound = heard
    where = by_weights[weights][0]
    ran = Tagger(where)
    found, wanted = ran.tag((sound, 16_000)), np.asarray(loaded.scores(windows_of(loaded, sound)))
    assert ran.label_names == LABELS
    np.testing.assert_allclose(
        found.scores, wanted, atol={"float32": 1e-4, "float16": 0.01, "int8": 0.15}[weights]
    )
    fbank = windows_of(loaded, sound)
    model = load_model(where)
    np.testing.assert_array_equal(model.scores(fbank)[2:], model.scores(fbank[2:]))
    np.testing.assert_allclose(model.logits(fbank[:1, :20]), ran.models[0].logits(fbank[:1, :20]))


def windows_of(loaded, sound) -> np.ndarray:
    whole = program.samples(loaded)
    pieces = [sound[start : start + whole] for start in range(0, len(sound) - whole // 2, whole // 2)]
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    padded = np.stack([np.pad(piece, (0, whole - len(piece))) for piece in pieces])
    return program.features(loaded, {"waveform": padded, "num_samples": lengths})


def test_an_export_of_features_is_a_model_too(heard, tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    loaded, sound = heard
    monkeypatch.setattr(convert_module, "load_model", lambda src, **options: loaded)
    convert("somewhere/run", tmp_path / "tagger", to="onnx")
    fbank = windows_of(loaded, sound)
    np.testing.assert_allclose(load_model(tmp_path / "tagger").logits(fbank), loaded.logits(fbank), atol=1e-4)


def test_what_an_onnx_export_cannot_give_is_one_line(by_weights, tmp_path):
    where, _ = by_weights["int8"]
    model = load_model(where)
    for asked in (lambda: model.embeddings(np.zeros((1, 64, 128))), lambda: model.parts):
        with pytest.raises(InputError, match="take the model that it was made of"):
            asked()
    with pytest.raises(InputError, match="num_frames would change it; export the model anew"):
        load_model(where, num_frames=32)
    with pytest.raises(InputError, match="whose arrays are not read"):
        read_source(where)
    with pytest.raises(InputError, match="take the model that it was made of"):
        convert(where, tmp_path / "again", to="npz")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    (strangers / "model.onnx").write_bytes(b"")
    (strangers / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(InputError, match=r"no weights|whisper"):
        load_model(strangers)
    broken = tmp_path / "broken"
    shutil.copytree(where, broken)
    (broken / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"cannot be run .*: export the model again"):
        load_model(broken)


# ---- The examples, on what is exported


def told(text: str) -> list[tuple[float, dict[str, float]]]:
    """[(second, {label: score})] of lines `0.00 s: dog 0.9000, ...`."""
    rows = [line.split(" s: ") for line in text.strip().splitlines()]
    pairs = [[tag.rsplit(" ", 1) for tag in tags.split(", ")] for _, tags in rows]
    return [
        (float(second), {name: float(score) for name, score in found})
        for (second, _), found in zip(rows, pairs, strict=True)
    ]


def check_told(found, loaded, sound):
    """Windows that overlap by half, each as this package scores it."""
    whole = program.samples(loaded)
    wanted = np.asarray(loaded.scores(windows_of(loaded, sound)))
    assert len(found) == len(wanted) == 4
    for number, ((second, tags), scores) in enumerate(zip(found, wanted, strict=True)):
        assert second == pytest.approx(number * (whole // 2) / 16_000, abs=0.006)
        assert tags == pytest.approx(dict(zip(LABELS, scores, strict=True)), abs=1e-4)
        assert list(tags.values()) == sorted(tags.values(), reverse=True)


EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_python_example_tags_without_this_package(by_weights, heard):
    where, _ = by_weights["float32"]
    command = [sys.executable, str(EXAMPLES / "tag.py"), str(where), str(where.parent / "long.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=where)
    assert done.returncode == 0, done.stderr
    check_told(told(done.stdout), *heard)


def test_the_c_plus_plus_example_tags_without_python(by_weights, heard, tmp_path):
    """A sound of 16 bit, as the Python example tags it; what is not mono at the model's rate is one line."""
    import soundfile

    tag = compiled(tmp_path)
    (where, _), (loaded, sound) = by_weights["float32"], heard
    file = tmp_path / "mono.wav"
    soundfile.write(file, sound, 16_000, subtype="PCM_16")
    done = tag(where, file)
    assert done.returncode == 0, done.stderr
    check_told(told(done.stdout), loaded, soundfile.read(file, dtype="float32")[0])
    for channels, rate in ((2, 16_000), (1, 44_100)):
        soundfile.write(tmp_path / "other.wav", np.stack([sound] * channels, 1), rate)
        refused = tag(where, "other.wav")
        assert refused.returncode == 1
        wanted = f"other.wav: wanted mono at 16000 Hz, got {channels} channels at {rate} Hz\n"
        assert refused.stderr == wanted


def compiled(directory: Path):
    """tag.cpp as a function of its arguments, with the library of onnxruntime's wheel; skips without a
    compiler, the library, or headers where the compiler looks for them (CPLUS_INCLUDE_PATH and LIBRARY_PATH
    name other places).
    """
    capi = Path(pytest.importorskip("onnxruntime").__file__).parent / "capi"
    library = next(capi.glob("libonnxruntime.so.1.*"), None)
    if library is None or shutil.which("g++") is None:
        pytest.skip("no g++ on the PATH" if library else "no libonnxruntime.so in the wheel of onnxruntime")
    own = directory / "libonnxruntime.so.1"
    own.symlink_to(library)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I/usr/include/onnxruntime"]
    files = [str(EXAMPLES / "tag.cpp"), str(own), "-lsndfile", "-o", str(directory / "tag")]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    missing = re.search(r"fatal error: (\S+: No such file)|cannot find (-lsndfile)", done.stderr)
    if missing:
        pytest.skip(f"to compile tag.cpp: {missing[0]}")
    assert done.returncode == 0, done.stderr
    return functools.partial(run_compiled, directory)


def run_compiled(directory: Path, *arguments: str | Path):
    command = [str(directory / "tag"), *map(str, arguments)]
    environment = {"LD_LIBRARY_PATH": str(directory)}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)


@needs_chromium
@pytest.mark.slow
def test_the_page_tags_in_the_browser(by_weights, heard, tmp_path):
    """onnxruntime-web in Chromium: the same scores, and nothing is asked for but the page's own files."""
    runtime = onnxruntime_web(tmp_path)
    where, _ = by_weights["float32"]
    site = tmp_path / "site"
    shutil.copytree(runtime, site)
    for file in (where / "model.onnx", where / "model_card.json", EXAMPLES / "tag.html"):
        shutil.copy(file, site)
    with static(site) as address, browser() as chromium:
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/tag.html")
        page.wait_for_selector("input:enabled", timeout=60_000)
        page.set_input_files("input", where.parent / "long.wav")
        page.wait_for_function("document.querySelector('p').textContent === 'Done.'", timeout=60_000)
        rows = page.locator("li").all_inner_texts()
    check_told(told("\n".join(rows)), *heard)
    assert all(url.startswith((address, "blob:")) for url in asked)


def onnxruntime_web(directory: Path) -> Path:
    """Its dist/, by npm; skips where there is none."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on the PATH, which fetches onnxruntime-web")
    command = ["npm", "pack", "--silent", "onnxruntime-web@1.30.0"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm has no onnxruntime-web here: {done.stderr[-200:]}")
    with tarfile.open(directory / done.stdout.strip()) as archive:
        members = [
            member
            for member in archive
            if re.search(r"/ort(-wasm-simd-threaded|\.wasm\.min)\.\w+$", member.name)
        ]
        archive.extractall(directory, members, filter="data")
    return directory / "package" / "dist"


@contextlib.contextmanager
def static(directory: Path):
    """The directory behind Python's own server; gives its address."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=directory))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_card_says_what_a_run_knows(loaded, tmp_path):
    from fake_run import write_fake_run

    run = write_fake_run(tmp_path / "run")
    (run / "checkpoints").mkdir()
    words = card.text(loaded, to="flax", name="tagger", facts=card.facts_of(run, "best"))
    results = json.loads((run / "results.json").read_text())
    assert f"| mAP | {results['metrics']['mAP']:.4f} |" in words
    assert "| data set | esc50 |" in words
    assert "dog, rain, bell" in words
    assert '"width": 8' in words
    assert "## Intended use" in words


def test_the_card_names_the_family(loaded, monkeypatch):
    facts = card.facts_of("somewhere/weights.npz", "best")
    assert "An Audio Spectrogram Transformer ([Gong" in card.text(loaded, to="flax", name="x", facts=facts)
    stated = loaded.card()
    for family, words in (("cnn14", "PANNs' CNN14 ([Kong"), ("mine", "A model of the family mine of")):
        monkeypatch.setattr(type(loaded), "card", lambda _, family=family: stated | {"family": family})
        written = card.text(loaded, to="flax", name="x", facts=facts)
        assert words in written
        assert "tags: [audio]" in written


def test_the_card_claims_nothing_that_nobody_measured(exported):
    words = (exported[0] / "README.md").read_text()
    assert "Not measured here." in words
    assert "2 blocks from weights.npz" in words, "where it came from, without the directories of a machine"
