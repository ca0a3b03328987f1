"""Labelling: what is asked, what is kept, several pages; by keys in a real browser where there is one."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import browser, needs_chromium, served
from flax import nnx
from starlette.testclient import TestClient

from ast_jax.commands import invoke
from ast_jax.datasets import folder
from ast_jax.errors import InputError
from ast_jax.features.front_end import Kaldi
from ast_jax.inference.labelling import HELD_OUT, SHOWN_S, Session, Taken, groups_by
from ast_jax.inference.serve.label_app import make_label_app
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel

NAMES = ("bell", "rain", "wind")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Thirty clips around three directions, their files, and the class of each."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 10)
    vectors = rng.normal(0, 3, (3, 8))[truth] + rng.normal(0, 0.3, (30, 8))
    files = []
    for number in range(30):
        file = root / f"clip{number:02}.wav"
        soundfile.write(file, 0.1 * rng.normal(size=4000), 16_000)
        files.append(file)
    return files, vectors.astype(np.float32), [NAMES[i] for i in truth]


@pytest.fixture
def sitting(clips, tmp_path):
    def begin(**options) -> Session:
        files, vectors, _ = clips
        return Session(tmp_path / "labels.csv", files, vectors, **options)

    return begin


def answered(session: Session, truth, count: int, by: str = "a") -> list:
    """Clips shown to an oracle, and answered."""
    heard = []
    for _ in range(count):
        clip = session.next(by=by)
        session.answer(clip.number, truth[clip.number], by=by)
        session.fit()
        heard.append(clip)
    return heard


def test_unlike_clips_come_first_then_doubtful_ones_and_every_fifth_by_chance(sitting, clips):
    session, truth = sitting(), clips[2]
    heard = answered(session, truth, 10)
    assert [clip.why for clip in heard[:2]] == ["like most", "unlike what was heard"]
    # one of each class among the first four, which chance gives in half of all draws
    assert {truth[clip.number] for clip in heard[:4]} == set(NAMES)
    assert [i for i, clip in enumerate(heard, 1) if "held out" in clip.why] == [HELD_OUT, 2 * HELD_OUT]
    assert heard[6].why == "in doubt"
    assert heard[6].guesses[0][1] == max(share for _, share in heard[6].guesses)
    assert session.standing()["curve"][-1] == {"answers": 10, "accuracy": 1.0}


def test_what_is_held_out_is_not_learned(sitting, clips):
    session, truth = sitting(), clips[2]
    answered(session, truth, 4)
    held_out = session.next(by="a")
    assert held_out.why.endswith("held out")
    session.answer(held_out.number, "owl", by="a")
    session.fit()
    assert {label for label, _ in session.next(by="a").guesses} == set(NAMES)
    assert session.standing()["curve"][-1] == {"answers": 5, "accuracy": 0.0}


def test_the_clip_in_doubt_is_between_two_classes(tmp_path, clips):
    files, vectors, truth = clips
    vectors = vectors.copy()
    vectors[7] = (vectors[:10].mean(axis=0) + vectors[10:20].mean(axis=0)) / 2
    session = Session(tmp_path / "labels.csv", files, vectors)
    for number in (0, 10, 20, 1, 11):
        session.next(by="a")
        session.answer(number, truth[number], by="a")
    session.fit()
    first = session.next(by="a")  # one is due that is held out
    session.answer(first.number, truth[first.number], by="a")
    session.fit()
    assert session.next(by="a").number == 7


def test_the_table_is_a_data_set_and_another_sitting_goes_on(sitting, clips, tmp_path):
    truth, table = clips[2], tmp_path / "labels.csv"
    answered(sitting(), truth, 12)
    own = folder.list_clips(table)
    assert {name: len(split) for name, split in own.splits.items()} == {"train": 10, "test": 2}
    assert all(
        own.label_names[clip.labels[0]] == truth[int(clip.path[-6:-4])] for clip in own.splits["train"]
    )
    again = sitting()
    assert again.standing()["answers"] == 12
    assert again.standing()["curve"][-1]["answers"] == 12
    rest = answered(again, truth, 18)
    assert len({clip.number for clip in rest} | set(again.labels)) == 30
    assert again.next(by="a") is None


def test_a_second_sitting_knows_clips_that_are_spelt_otherwise(clips, tmp_path):
    """Nothing is asked twice, and the table lists nothing twice."""
    files, vectors, truth = clips
    spelt = [file.parent / ".." / file.parent.name / file.name for file in files]
    answered(Session(tmp_path / "labels.csv", spelt, vectors), truth, 7)
    for again in (spelt, files):
        assert Session(tmp_path / "labels.csv", again, vectors).standing()["answers"] == 7
    answered(Session(tmp_path / "labels.csv", spelt, vectors), truth, 23)
    assert len(folder.list_clips(tmp_path / "labels.csv").clips) == 30


def test_the_command_sits_twice_on_clips_above(clips, tmp_path, monkeypatch, capsys):
    """`label ../clips`: the second sitting knows the first one's answers, and `folder` takes the table."""
    model = AST(ASTConfig(num_classes=2, num_frames=24, width=8, depth=1, num_heads=1), rngs=nnx.Rngs(0))
    loaded = LoadedModel(model, ["a", "b"], model.front_end.with_statistics(-4.0, 4.0), "softmax")
    monkeypatch.setattr("ast_jax.weights.load_model", lambda source, **options: loaded)
    sounds, here = tmp_path / "sounds", tmp_path / "here"
    sounds.mkdir()
    here.mkdir()
    for file in clips[0][:6]:
        (sounds / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(here)
    heard = []

    def sit(app, limits, host, listening):
        with listening, TestClient(app, base_url=f"http://{host}") as client:
            for _ in range(2):
                told = client.post("/api/next", json={"page": "a"}).json()
                heard.append((told["answers"], told["shown"]["clip"], told["groups"]))
                answer = {"page": "a", "clip": told["shown"]["clip"], "label": "owl"}
                assert client.post("/api/answer", json=answer).status_code == 200

    monkeypatch.setattr("ast_jax.inference.serve.server.run", sit)
    asked = ["../sounds", "--model=m", "--out=labels.csv", "--port=0", r"--group=clip(\d+)"]
    for total in (2, 4):
        invoke("label", asked)
        err = capsys.readouterr().err
        assert f"{total} of 6 clips are labelled" in err
        assert "1 of 6 groups are held out, 1 of 6 clips" in err
    assert [answers for answers, _, _ in heard] == [0, 1, 2, 3]
    assert len({clip for _, clip, _ in heard}) == 4
    assert {groups for _, _, groups in heard} == {6}
    assert len(folder.list_clips(here / "labels.csv").clips) == 4


def test_rows_of_other_files_stay_and_a_table_that_is_none_is_left_alone(sitting, clips, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,labels,split\nelsewhere.wav,owl,train\n")
    answered(sitting(), clips[2], 1)
    assert "elsewhere.wav,owl,train\n" in table.read_text()
    for text in ("file,labels\na.wav,owl\n", "file,labels,split\na.wav,owl,fold1\n"):
        table.write_text(text)
        with pytest.raises(InputError, match="split"):
            sitting()
        assert table.read_text() == text


def test_undo_takes_back_answers_and_skips_of_its_own_page(sitting, clips, tmp_path):
    session, truth = sitting(), clips[2]
    first = answered(session, truth, 1, by="a")[0]
    other = answered(session, truth, 1, by="b")[0]
    skipped = session.next(by="a")
    session.skip(skipped.number, by="a")
    assert session.next(by="a").number != skipped.number
    assert session.undo(by="a").number == skipped.number
    assert session.undo(by="a").number == first.number
    assert list(session.labels) == [other.number]
    assert session.undo(by="a") is None
    assert session.undo(by="b").number == other.number
    assert not (tmp_path / "labels.csv").exists()


def test_a_clip_held_out_that_was_skipped_and_taken_back_is_held_out(sitting, clips, tmp_path):
    session, truth = sitting(), clips[2]
    answered(session, truth, 4)
    held_out = session.next(by="a").number
    session.skip(held_out, by="a")
    assert session.undo(by="a").number == held_out
    session.answer(held_out, truth[held_out], by="a")
    assert (tmp_path / "labels.csv").read_text().splitlines()[-1].endswith(f"{truth[held_out]},test")
    session.undo(by="a")
    session.answer(held_out, truth[held_out], by="a")
    assert session.standing()["held_out"] == 1


def by_pairs(file: Path) -> str:
    """clip00 and clip01 are of recording 0, and so on."""
    return f"recording {int(file.stem[4:]) // 2}"


@pytest.mark.parametrize("order", ["active", "random"])
def test_groups_are_held_out_whole_and_another_sitting_holds_out_the_same(sitting, clips, tmp_path, order):
    truth = clips[2]
    session = sitting(order=order, group=by_pairs)
    assert session.told_groups() == "3 of 15 groups are held out, 6 of 30 clips"
    heard = answered(session, truth, 9)
    assert [i for i, clip in enumerate(heard, 1) if "held out" in clip.why] == [HELD_OUT]
    # one that is asked for, too
    away = next(i for i, name in enumerate(session.groups) if name in session.held_groups)
    again = sitting(order=order, group=by_pairs)
    assert again.held_groups == session.held_groups
    if away not in again.labels:
        again.answer(away, truth[away], by="a")
    while clip := again.next(by="a"):
        again.answer(clip.number, truth[clip.number], by="a")
    listing = folder.list_clips(tmp_path / "labels.csv")
    assert {name: len(split) for name, split in listing.splits.items()} == {"train": 24, "test": 6}
    owners = [{by_pairs(Path(clip.path)) for clip in listing.splits[name]} for name in ("train", "test")]
    assert (owners[0] & owners[1], owners[1]) == (set(), session.held_groups)
    assert set(listing.notes["groups"].values()) == owners[0] | owners[1]
    # it is judged on them all
    again.fit()
    assert again.standing()["curve"][-1]["answers"] == 30


def test_groups_that_are_held_out_do_not_decide_what_is_asked(sitting, clips, tmp_path):
    """With them, more clips would be like the second kind."""
    files = clips[0]
    away = sitting(group=by_pairs).held_groups
    kinds = np.zeros(30, int)
    train = [i for i, file in enumerate(files) if by_pairs(file) not in away]
    kinds[train[14:]] = 1
    kinds[[i for i in range(30) if i not in train]] = 1
    alike = np.eye(8, dtype=np.float32)[kinds]
    session = Session(tmp_path / "labels.csv", files, alike, group=by_pairs)
    assert kinds[session.next(by="a").number] == 0


def test_groups_are_a_pattern_or_a_table_and_stay_what_they_were(sitting, clips, tmp_path):
    files, _, truth = clips
    rows = [f"{file},{'ab'[i % 2]}" for i, file in enumerate(files)]
    (tmp_path / "whose.csv").write_text("\n".join(["file,group", *rows]))
    of_table = groups_by(str(tmp_path / "whose.csv"), tmp_path)
    assert [of_table(file) for file in files[:3]] == ["a", "b", "a"]
    with pytest.raises(InputError, match=r"new\.wav has no group in"):
        of_table(tmp_path / "new.wav")
    tens = groups_by(r"clip(\d)", tmp_path)
    assert tens(files[13]) == "1"
    with pytest.raises(InputError, match="one group"):
        sitting(group=groups_by("clip", tmp_path))
    answered(sitting(), truth, 5)
    # where both sides have clips of one
    with pytest.raises(InputError, match="in both splits"):
        sitting(group=of_table)
    (tmp_path / "labels.csv").unlink()
    answered(sitting(group=of_table), truth, 1)
    for group, message in ((None, "give --group, as before"), (tens, "and by --group of")):
        with pytest.raises(InputError, match=message):
            sitting(group=group)


def test_without_groups_it_is_said_that_pieces_may_stand_on_both_sides(sitting):
    assert "pieces of one recording" in sitting().told_groups()
    assert sitting().standing()["groups"] == 0


def test_two_pages_get_clips_of_their_own_and_the_second_answer_is_refused(clips, tmp_path):
    now = [0.0]
    session = Session(tmp_path / "labels.csv", *clips[:2], clock=lambda: now[0])
    a, b = session.next(by="a"), session.next(by="b")
    assert a.number != b.number
    session.answer(a.number, "bell", by="a")
    with pytest.raises(Taken, match="labelled bell already"):
        session.answer(a.number, "rain", by="b")
    assert session.labels[a.number] == "bell"
    # a page that was closed gives its clip back after a while
    now[0] = SHOWN_S + 1
    heard = [session.next(by="c")]
    while heard[-1] is not None:
        session.answer(heard[-1].number, "bell", by="c")
        heard.append(session.next(by="c"))
    assert b.number in {clip.number for clip in heard[:-1]}


def test_one_like_it_is_the_nearest(sitting, clips):
    session, vectors = sitting(), clips[1]
    standard = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    cosine = standard @ standard[4] / np.linalg.norm(standard, axis=1)
    assert session.next(by="a", like=3) is not None
    session.answer(4, "bell", by="a")
    cosine[4] = -2
    assert session.next(by="a", like=4).number == cosine.argmax()


@pytest.mark.parametrize("label", ["", "  ", "a;b", "a\nb"])
def test_names_that_the_table_cannot_hold_are_refused(sitting, label):
    session = sitting()
    with pytest.raises(InputError, match="no name of a class"):
        session.answer(0, label, by="a")
    assert session.labels == {}


# ---- The server


@pytest.fixture
def client(sitting):
    app = make_label_app(sitting(classes=NAMES), Kaldi())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def test_the_server_shows_keeps_takes_back_and_refuses(client):
    first = client.post("/api/next", json={"page": "a"}).json()
    assert [row["label"] for row in first["classes"]] == list(NAMES)
    number = first["shown"]["clip"]
    then = client.post("/api/answer", json={"page": "a", "clip": number, "label": "owl"}).json()
    assert (then["answers"], then["classes"][-1]) == (1, {"label": "owl", "count": 1})
    again = client.post("/api/answer", json={"page": "b", "clip": number, "label": "rain"})
    assert (again.status_code, "labelled owl already" in again.json()["error"]) == (409, True)
    back = client.post("/api/undo", json={"page": "a"}).json()
    assert (back["answers"], back["shown"]["clip"]) == (0, number)
    for what, body, status in (
        ("answer", {"page": "a", "clip": 99, "label": "owl"}, 404),
        ("answer", {"page": "a", "clip": 0, "label": "a;b"}, 400),
        ("skip", {"page": "a", "clip": -1}, 404),
        ("next", {}, 400),
    ):
        reply = client.post(f"/api/{what}", json=body)
        assert (reply.status_code, set(reply.json())) == (status, {"error"})
    assert client.get("/api/clips/-1/sound").status_code == 404
    elsewhere = client.post("/api/next", json={"page": "a"}, headers={"sec-fetch-site": "cross-site"})
    assert elsewhere.status_code == 403
    sound, rate = soundfile.read(io.BytesIO(client.get("/api/clips/3/sound").content))
    assert (len(sound), rate) == (4000, 16_000)
    assert client.get("/api/clips/3/spectrogram").json()["bins"] == 128


@needs_chromium
def test_clips_are_labelled_by_keys_alone(sitting, clips, tmp_path):
    session, truth = sitting(), clips[2]
    with browser() as chromium, served(make_label_app(session, Kaldi())) as address:
        page, failed = chromium.new_page(), []
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(address)
        name = page.locator("#name")
        for done in range(8):
            page.get_by_text(f"{done} of 30 clips labelled").wait_for()
            label = truth[int(name.inner_text()[4:6])]
            keys = page.locator("#classes button").evaluate_all(
                "all => all.map(b => b.children[1].textContent)"
            )
            if label in keys:
                page.keyboard.press(str(keys.index(label) + 1))
            else:
                page.keyboard.press("n")
                page.keyboard.type(label)
                page.keyboard.press("Enter")
        page.get_by_text("8 of 30 clips labelled, 1 of them held out").wait_for()
        shown = name.inner_text()
        page.keyboard.press("s")
        page.get_by_text("1 skipped").wait_for()
        page.keyboard.press("u")
        page.get_by_text("taken back").wait_for()
        assert name.inner_text() == shown
        page.get_by_text("After 8 answers: 100").wait_for()
        page.get_by_text("Pieces of one recording may stand on both sides").wait_for()
        assert page.get_by_role("img", name="After 8 answers").is_visible()
        second = chromium.new_page()
        second.goto(address)
        second.get_by_text("8 of 30 clips labelled").wait_for()
        assert second.locator("#name").inner_text() != shown
        assert failed == []
    labels = {
        clip.path[-10:-4]: clip.labels[0]
        for split in folder.list_clips(tmp_path / "labels.csv").splits.values()
        for clip in split
    }
    assert len(labels) == 8
    assert all(sorted(NAMES)[label] == truth[int(clip[4:6])] for clip, label in labels.items())
