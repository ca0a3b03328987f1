"""The server without a browser, around a tiny random model: its answers, its refusals; it survives them."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import struct
import threading

import numpy as np
import pytest
import soundfile
from flax import nnx
from starlette.testclient import TestClient

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.features import load_audio, log_mel
from ast_jax.inference.predict import Tagger
from ast_jax.inference.serve import server
from ast_jax.inference.serve.app import make_app
from ast_jax.inference.serve.batcher import Batcher
from ast_jax.inference.serve.limits import Limits
from ast_jax.models import AST, ASTConfig, host_variables, set_variables
from ast_jax.weights import LoadedModel

LIMITS = Limits(upload_bytes=400_000, sound_s=20.0, decode_time_s=5.0)
CONFIG = ASTConfig(
    num_classes=3, num_frames=100, patch_shape=(128, 10), strides=(128, 10), width=16, depth=1, num_heads=2
)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """Of a model that judges clips."""
    model = loud(CONFIG, seed=1)
    front_end = model.front_end.with_statistics(-5.0, 3.0)
    return tagger_of(LoadedModel(model, ["bell", "rain", "siren"], front_end, "softmax"))


@pytest.fixture(scope="module")
def step_tagger() -> Tagger:
    """Of a model that judges steps."""
    model = loud(dataclasses.replace(CONFIG, head="frames"), seed=3)
    front_end = model.front_end.with_statistics(-5.0, 3.0)
    return tagger_of(LoadedModel(model, ["bell", "rain", "siren"], front_end, "sigmoid"))


def loud(config: ASTConfig, seed: int) -> AST:
    """With weights that make scores differ, so that there are events; without biases and positions."""
    model, rng = AST(config, rngs=nnx.Rngs(0)), np.random.default_rng(seed)
    drawn = {key: rng.normal(0, 2, value.shape) for key, value in host_variables(model).items()}
    still = {key: 0 * value for key, value in drawn.items() if key.endswith(("bias", "pos_embed"))}
    set_variables(model, {key: value.astype("f4") for key, value in (drawn | still).items()})
    return model


def tagger_of(loaded: LoadedModel) -> Tagger:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ast_jax.inference.predict.load_model", lambda source, **_: loaded)
        return Tagger(["random"])


@pytest.fixture(scope="module")
def client(tagger):
    with TestClient(make_app(tagger, LIMITS), base_url="http://127.0.0.1") as client:
        yield client


def sound(seconds: float = 3.0, kind: str = "WAV", rate_hz: int = 16_000, silent: bool = False) -> bytes:
    samples = int(seconds * rate_hz)
    wave = np.zeros(samples) if silent else 0.2 * np.random.default_rng(0).normal(size=samples)
    out = io.BytesIO()
    soundfile.write(out, wave, rate_hz, format=kind)
    return out.getvalue()


def changing() -> bytes:
    """Three seconds of tones, of which each half second has another: sounds with a beginning and an end."""
    time = np.arange(8_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 5_000, 0, 1_200, 300, 5_000)]
    out = io.BytesIO()
    soundfile.write(out, np.concatenate(tones), 16_000, format="WAV")
    return out.getvalue()


def fits(value, schema: dict, named: dict) -> bool:
    """Whether a value is what its schema in openapi.json says, as far as that uses the words below."""
    if "$ref" in schema:
        return fits(value, named[schema["$ref"].removeprefix("#/components/schemas/")], named)
    if "anyOf" in schema:
        return any(fits(value, one, named) for one in schema["anyOf"])
    match schema["type"]:
        case "object":
            known = set(schema["required"]) <= set(value) <= set(schema["properties"])
            return known and all(fits(value[key], schema["properties"][key], named) for key in value)
        case "array":
            return isinstance(value, list) and all(fits(item, schema["items"], named) for item in value)
        case "null":
            return value is None
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int)
        case "boolean":
            return isinstance(value, bool)
        case "number":
            within = schema.get("minimum", -np.inf) <= value <= schema.get("maximum", np.inf)
            return isinstance(value, int | float) and within
    raise AssertionError(schema)


def is_described(value, client, path: str, method: str, status: str = "200") -> bool:
    described = client.get("/openapi.json").json()
    answer = described["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    return fits(value, answer, described["components"]["schemas"])


@pytest.mark.parametrize(("kind", "rate_hz"), [("WAV", 44_100), ("FLAC", 16_000), ("OGG", 22_050)])
def test_a_sound_gets_the_tags_that_predict_gives_it(client, tagger, kind, rate_hz):
    body = sound(3.0, kind, rate_hz)
    reply = client.post("/api/tags?top=3&spectrogram=true", content=body)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert is_described(found, client, "/api/tags", "post")
    expected = tagger.tag(body)
    assert {tag["label"]: tag["score"] for tag in found["tags"]} == pytest.approx(
        dict(zip(tagger.label_names, expected.overall, strict=True)), abs=1e-4
    )
    timeline = found["timeline"]
    np.testing.assert_allclose(timeline["starts_s"], expected.times_s, atol=1e-3)
    first = tagger.label_names.index(timeline["labels"][0]["label"])
    np.testing.assert_allclose(timeline["labels"][0]["scores"], expected.scores[:, first], atol=1e-4)
    assert found["duration_s"] == pytest.approx(3.0, abs=0.01)


def test_the_answer_is_the_one_of_predict_json(client, tagger, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ast_jax.inference.predict.load_model", lambda source, **_: tagger.models[0])
    for seconds in (0.5, 3.0):
        file = tmp_path / "x.wav"
        file.write_bytes(sound(seconds))
        invoke("predict", ["--model=m", "--json", "--top=2", str(file)])
        told = json.loads(capsys.readouterr().out)
        assert told.pop("file") == str(file)
        found = client.post("/api/tags?top=2", content=file.read_bytes()).json()
        assert set(found) == set(told)
        numbers = re.compile(r"-?[0-9]+\.[0-9]+(?:e-?[0-9]+)?")
        ours, theirs = json.dumps(found, sort_keys=True), json.dumps(told, sort_keys=True)
        assert numbers.sub("", ours) == numbers.sub("", theirs)
        # Batches of another size round otherwise, and four digits are told.
        np.testing.assert_allclose(
            *(list(map(float, numbers.findall(t))) for t in (ours, theirs)), atol=1.5e-4
        )


def test_its_events_are_those_of_predict(client, tagger, step_tagger):
    body = changing()
    with TestClient(make_app(step_tagger, LIMITS), base_url="http://127.0.0.1") as other:
        for asked, own in ((client, tagger), (other, step_tagger)):
            told = asked.post("/api/tags?events=true", content=body).json()
            assert is_described(told, asked, "/api/tags", "post")
            wanted = own.events(body)
            assert len(wanted) > 1
            assert [event["label"] for event in told["events"]] == [event.label for event in wanted]
            for key in ("onset_s", "offset_s", "score"):
                values = [getattr(event, key) for event in wanted]
                np.testing.assert_allclose([event[key] for event in told["events"]], values, atol=1e-4)
        assert "events" not in other.post("/api/tags", content=body).json()
        assert [one.get("/api/model").json()["judges_steps"] for one in (client, other)] == [False, True]


@pytest.mark.parametrize("name", ["x.wav", None], ids=["a file", "a field"])
def test_a_form_with_one_file_is_heard(client, name):
    body = sound(0.5)
    reply = client.post(
        "/api/tags", files={"top": (None, b"3"), "file": (name, body)} if name else {"file": (None, body)}
    )
    assert reply.status_code == 200, reply.text
    assert reply.json() == client.post("/api/tags", content=body).json()


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("multipart/form-data", b"--x\r\n\r\nabc\r\n--x--\r\n", "0 files"),
        ("multipart/form-data; boundary=x", b"", "0 files"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\na\r\n--x\r\n\r\nb\r\n--x--\r\n", "2 files"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: filename=b\r\n\r\n\r\n--x--\r\n", "no sound came"),
    ],
    ids=["no boundary", "nothing", "two", "an empty one"],
)
def test_a_form_without_one_file_is_refused(client, kind, body, words):
    reply = client.post("/api/tags", content=body, headers={"content-type": kind})
    assert reply.status_code == 400
    assert words in reply.json()["error"]


def test_a_format_whose_decoder_prints_is_refused_by_name(client):
    """libsndfile prints "Error A : 11" where a block of an SDS file does not begin as it should."""
    body = bytearray(sound(1.0, "SDS"))
    body[21 + 3 * 127] = 0x11
    sent = client.post("/api/tags", content=bytes(body))
    assert sent.status_code == 415
    error = sent.json()["error"]
    assert "not audio" in error
    assert "ffmpeg" in error


def test_the_spectrogram_is_the_log_mel_of_the_sound(client):
    body = sound(3.0)
    sent = client.post("/api/tags?spectrogram=true", content=body).json()["spectrogram"]
    pixels = np.frombuffer(base64.b64decode(sent["data"]), np.uint8).reshape(sent["columns"], sent["bins"])
    fbank = log_mel(load_audio(body))
    assert pixels.shape == fbank.shape  # 298 frames: nothing to pool
    low, high = np.percentile(fbank, [1, 99.8])
    inside = (fbank > low) & (fbank < high)
    np.testing.assert_allclose(pixels[inside], 255 * (fbank[inside] - low) / (high - low), atol=1)
    assert "spectrogram" not in client.post("/api/tags", content=body).json()


def test_a_long_sound_is_pooled_to_what_a_screen_shows(client):
    sent = client.post("/api/tags?spectrogram=true", content=sound(15.0, "FLAC", 8000)).json()["spectrogram"]
    assert sent["columns"] == 1000


REFUSED = [
    ("nothing", b"", 400, "no sound came"),
    ("text", b"this is a text file, whatever its name says\n" * 50, 415, "not audio"),
    ("zeros", bytes(5000), 415, "not audio"),
    ("cut off", sound(2.0)[:20_000], 422, "truncated"),
    ("too many bytes", bytes(400_001), 413, "0.4 MB"),
    ("too long", sound(21.0, "OGG", 8000), 422, "it lasts 21 s, and 20 s is the most"),
    ("an hour of silence in few bytes", sound(3600, "FLAC", 8000, silent=True), 422, "it lasts 3,600 s"),
]


@pytest.mark.parametrize(("_", "body", "status", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_tagged_is_told_in_a_line_and_the_server_goes_on(client, _, body, status, words):
    reply = client.post("/api/tags", content=body)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert is_described(reply.json(), client, "/api/tags", "post", str(status))
    assert client.get("/api/model").status_code == 200


@pytest.mark.parametrize(("samples", "status"), [(8000, 200), (2**36 - 1, 422), (3_000_000, 422)])
def test_a_flac_that_lies_about_its_length_costs_no_more_than_it_says(client, samples, status):
    """STREAMINFO's 36 bits of total samples stand from the middle of byte 21 on; there are 10 s in truth."""
    body = bytearray(sound(10.0, "FLAC", silent=True))
    body[21] = body[21] & 0xF0 | samples >> 32
    body[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    reply = client.post("/api/tags", content=bytes(body))
    assert reply.status_code == status, reply.text
    if status == 200:
        assert reply.json()["duration_s"] == 0.5


def test_decoding_has_limits_on_memory_and_time(tagger):
    body = sound(10.0, "FLAC")
    for limits, words in [
        (Limits(decode_bytes=1_000_000), "more memory than 1 MB"),
        (Limits(decode_time_s=0.01), "more time than 0.01 s"),
    ]:
        with TestClient(make_app(tagger, limits), base_url="http://127.0.0.1") as client:
            reply = client.post("/api/tags", content=body)
            assert reply.status_code == 422
            assert words in reply.json()["error"]


@pytest.mark.parametrize("top", ["0", "51", "-1", "1e1", "²", "9" * 30])
def test_a_parameter_out_of_range_is_refused(client, top):
    reply = client.post("/api/tags", params={"top": top}, content=sound(0.5))
    assert reply.status_code == 400
    assert "from 1 to 50" in reply.json()["error"]


def test_a_parameter_of_another_type_is_refused(client):
    reply = client.post("/api/tags?spectrogram=perhaps", content=sound(0.5))
    assert (reply.status_code, reply.json()) == (400, {"error": "spectrogram=perhaps: wanted true or false"})


def test_other_sites_are_refused(client):
    foreign = client.post("/api/tags", content=sound(0.5), headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    own = client.post("/api/tags", content=sound(0.5), headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/static/app.js", "/%2e%2e/app.py", "/app.js/", "/api/tags"]
)
def test_only_the_named_addresses_are_there(client, path):
    reply = client.get(path, follow_redirects=False)
    assert reply.status_code in (307, 404, 405)
    assert reply.status_code == 307 or "error" in reply.json()
    assert "default-src 'none'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_that_loads_from_elsewhere(client, path):
    assert client.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/app.js", "/style.css"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert "http://" not in reply.text.replace("http://www.w3.org", "")
        assert "https://" not in reply.text
    assert client.head("/api/model").status_code == 200
    assert is_described(client.get("/api/model").json(), client, "/api/model", "get")


def test_many_at_once_all_get_their_own_answer(client):
    bodies = [sound(0.5 + 0.25 * i) for i in range(8)]
    replies: list = [None] * len(bodies)

    def ask(i: int) -> None:
        replies[i] = client.post("/api/tags", content=bodies[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [round(reply.json()["duration_s"], 2) for reply in replies] == [0.5 + 0.25 * i for i in range(8)]


def test_more_than_may_wait_are_told_to_come_again(tagger):
    limits = Limits(waiting=0)
    with TestClient(make_app(tagger, limits), base_url="http://127.0.0.1") as client:
        reply = client.post("/api/tags", content=sound(0.5))
    assert reply.status_code == 503
    assert "try again" in reply.json()["error"]


def test_an_answer_that_takes_too_long_is_given_up(tagger):
    with TestClient(make_app(tagger, Limits(answer_time_s=0.01)), base_url="http://127.0.0.1") as client:
        reply = client.post("/api/tags", content=sound(0.5))
    assert (reply.status_code, "0.01 s" in reply.json()["error"]) == (503, True)


def test_a_fault_of_the_server_is_told_and_survived(tagger, monkeypatch):
    with TestClient(
        make_app(tagger, LIMITS), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        with monkeypatch.context() as broken:
            broken.setattr("ast_jax.inference.serve.app.describe", lambda *_: 1 / 0)
            reply = client.post("/api/tags", content=sound(0.5))
        assert (reply.status_code, "its log" in reply.json()["error"]) == (500, True)
        assert "content-security-policy" in reply.headers
        assert client.post("/api/tags", content=sound(0.5)).status_code == 200


# ---- the command


def test_an_address_that_is_taken_is_one_line():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"127\.0\.0\.1:{port} cannot be listened on .* choose another --port"
        ):
            server.listen("127.0.0.1", port)
    with pytest.raises(
        InputError, match="--port: got '70000', wanted a whole number, at least 0, at most 65535"
    ):
        invoke("serve", ["--model=m", "--port=70000"])


def test_it_serves_this_machine_until_ctrl_c(tagger, monkeypatch, capsys):
    """With uvicorn's own loop left out: what is built, for whom, and that Ctrl-C is no error."""
    built = {}

    def run(server, sockets):
        built.update(address=sockets[0].getsockname()[0], loop=server.config.loop, app=server.config.app)
        sockets[0].close()
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setattr("ast_jax.inference.predict.load_model", lambda source, **_: tagger.models[0])
    invoke("serve", ["--model=m", "--port=0"])
    assert (built["address"], built["loop"]) == ("127.0.0.1", "asyncio")
    out, err = capsys.readouterr()
    assert out.startswith("http://127.0.0.1:")
    assert not err
    with TestClient(built["app"], base_url="http://elsewhere.example") as client:
        assert client.get("/").status_code == 400
    invoke("serve", ["--model=m", "--port=0", "--host=0.0.0.0"])
    assert "warning: whoever reaches" in capsys.readouterr().err


# ---- the queue, without a server


def test_a_short_window_is_filled_with_what_its_front_end_calls_silence():
    async def ask() -> np.ndarray:
        batcher = Batcher(lambda batch: batch[:, :, 0], (2, 4, 1), padding=-9.0)
        async with batcher.running():
            return await batcher.scores([np.ones((3, 1), np.float32)])

    np.testing.assert_array_equal(asyncio.run(ask()), [[1, 1, 1, -9]])


def by_mean(batch: np.ndarray) -> np.ndarray:
    """A model that tells each window's own value, so that a mix-up shows."""
    return batch.max(axis=(1, 2))[:, None]


def test_windows_of_all_requests_share_batches_and_come_back_to_their_own():
    async def ask() -> tuple[list[np.ndarray], int]:
        batcher = Batcher(by_mean, (4, 2, 3))
        async with batcher.running():
            sounds = [[np.full((1, 3), 10.0 * i + j) for j in range(i)] for i in range(1, 6)]
            return await asyncio.gather(*map(batcher.scores, sounds)), batcher.batches

    found, batches = asyncio.run(ask())
    for i, scores in enumerate(found, start=1):
        np.testing.assert_array_equal(scores[:, 0], [10 * i + j for j in range(i)])
    assert batches < 6  # 15 windows; each request for itself would take 1 + 1 + 1 + 1 + 2


def test_a_short_sound_does_not_wait_for_a_long_one():
    order: list[str] = []

    async def ask() -> None:
        batcher = Batcher(by_mean, (4, 1, 1))
        async with batcher.running():

            async def one(name: str, windows: int) -> None:
                await batcher.scores([np.zeros((1, 1))] * windows)
                order.append(name)

            long = asyncio.create_task(one("long", 100))
            await asyncio.sleep(0)
            await one("short", 1)
            await long

    asyncio.run(ask())
    assert order == ["short", "long"]


def test_a_failing_batch_fails_those_who_asked_and_nobody_else():
    calls = []

    def score(batch: np.ndarray) -> np.ndarray:
        calls.append(batch)
        if len(calls) == 2:  # the first is the warm-up
            raise ValueError("out of memory, say")
        return by_mean(batch)

    async def ask() -> float:
        batcher = Batcher(score, (4, 1, 1))
        async with batcher.running():
            with pytest.raises(ValueError, match="say"):
                await batcher.scores([np.ones((1, 1))])
            return float((await batcher.scores([np.full((1, 1), 7.0)]))[0, 0])

    assert asyncio.run(ask()) == 7.0


def test_the_description_is_json_with_every_status(client):
    described = json.loads(client.get("/openapi.json").text)
    assert described["openapi"].startswith("3.1")
    statuses = described["paths"]["/api/tags"]["post"]["responses"]
    assert set(statuses) == {"200", "400", "403", "408", "413", "415", "422", "500", "503"}
