"""The report of invented runs: one page that holds everything, loads nothing, and trusts no name."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_run import SOUNDS, write_fake_run

from ast_jax.config import base
from ast_jax.errors import InputError
from ast_jax.evaluation.report import config_difference, model_name, page, write_report
from ast_jax.evaluation.run_files import read_run

HEADINGS = [
    "Curves",
    "Classes",
    "Best and worst clips",
    "What the model sees",
    "Settings",
    "Speed and data",
    "Versions and run",
]
NASTY = '<script>alert("1")</script> & <img src=x>'
VOID = {"meta", "img", "source", "br"}
SMALL = {"clips": 60, "epochs": 3, "frames": 64}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order. Collects references, texts and table cells."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.sort_keys: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.attributes += found
        self.references += [found[key] for key in ("src", "srcset", "href") if key in found]
        if "data-v" in found:
            self.sort_keys.append(found["data-v"])
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data


def report(directory) -> tuple[str, Page]:
    """The page as it is written, with its plots, which take most of the time."""
    html = write_report(directory).read_text(encoding="utf-8")
    return html, Page(html)


def plain(directory) -> tuple[str, Page]:
    """The page without plots, for tests of everything else."""
    html = page(read_run(directory))
    return html, Page(html)


def test_a_finished_run_fills_every_section(tmp_path):
    html, shown = report(write_fake_run(tmp_path / "my run", **SMALL))
    assert shown.texts["h2"] == HEADINGS
    assert shown.texts["h1"] == ["my run"]
    assert not re.search(r"not written yet|No .{1,30} yet", html)
    figures = 8 + 1 + 1  # curves and speed, confusion matrix, spectrograms
    assert shown.tags.count("picture") == figures
    for value in ("20 min 34 s", "0.12.0.1", "60 clips evaluated", "Most often mixed up"):
        assert value in html


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    html, shown = report(write_fake_run(tmp_path, **SMALL, audio=True))
    assert len(shown.references) > 20
    assert all(
        reference.startswith(("data:image/png;", "data:audio/wav;", "#")) for reference in shown.references
    )
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html  # and the browser is told so
    assert not any(name.startswith("on") for name in shown.attributes)
    assert not {"link", "iframe", "object", "embed"} & set(shown.tags)
    assert str(tmp_path) not in html


def test_every_name_from_outside_is_escaped(tmp_path):
    directory = write_fake_run(tmp_path / "a<b>", labels=[NASTY + str(i) for i in range(4)], **SMALL)
    with np.load(directory / "predictions.npz") as stored:
        ids = np.array([NASTY + str(i) for i in range(60)])
        np.savez(directory / "predictions.npz", ids=ids, scores=stored["scores"], targets=stored["targets"])
    for name in ("config.json", "results.json"):
        content = json.loads((directory / name).read_text())
        content |= {"note " + NASTY: NASTY}
        if name == "results.json":
            content["versions"][NASTY] = NASTY
        (directory / name).write_text(json.dumps(content))
    html, shown = plain(directory)
    assert shown.tags.count("script") == 1
    assert "alert(" not in shown.texts["script"][0]
    assert "<img src=x>" not in html
    assert shown.texts["h1"] == ["a<b>"]
    assert html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; &lt;img src=x&gt;") > 10


def test_events_have_a_table_of_their_own(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    f1 = {NASTY: 0.75, "dog": None, "mean of labels": 0.25, "all together": 0.5}
    figures = {"epoch": 3, "f1": {"events, 0.2 s": f1, "segments of 1 s": f1}, "psds": {"PSDS 1": 0.125}}
    figures |= {"thresholds": {NASTY: 0.0625, "dog": None}, "chosen_here": True, "events": 7, "clips": 60}
    figures |= {"clips_unknown": 0, "clips_cut": 2}
    results = json.loads((directory / "results.json").read_text())
    (directory / "results.json").write_text(json.dumps(results | {"events": figures}))
    html, shown = plain(directory)
    assert "Events" in shown.texts["h3"]
    assert "0.5000 (events, 0.2 s), 0.5000 (segments of 1 s); PSDS 1 0.1250" in html
    table = html[html.index("F1 of events") :]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table[: table.index("</table>")])
    assert [label for label, _ in rows[:2]] == ["mean of labels", "all together"]
    assert {label: re.findall(r">([^<]+)<", cells) for label, cells in rows}["dog"] == ["-"] * 3
    assert [re.findall(r">([^<]+)<", cells) for _, cells in rows[2:3]] == [["0.750", "0.750", "0.062"]]
    assert shown.tags.count("script") == 1


def test_the_class_table_is_sorted_by_ap_and_ready_to_be_sorted(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    results = json.loads((directory / "results.json").read_text())
    results["per_class"][3] |= {"ap": None, "auc": None, "d_prime": None, "accuracy": None, "positives": 0}
    (directory / "results.json").write_text(json.dumps(results))
    html, shown = plain(directory)
    rows = np.array(shown.sort_keys).reshape(10, 6)  # name, AP, AUC, d', recall, clips
    values = [float(v) for v in rows[:-1, 1]]
    assert values == sorted(values, reverse=True)
    assert rows[-1].tolist() == ["bell", "", "", "", "", "0"]
    assert set(rows[:, 0]) == set(SOUNDS)
    assert shown.texts["button"] == ["class", "AP", "AUC", "d'", "recall", "clips"]
    assert html.count('aria-sort="descending"') == 1
    assert "1 classes without a true clip" in html


def test_worst_and_best_clips_are_the_most_confident(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    scores = np.full((60, 10), 0.01, np.float32)
    true = np.arange(60) % 10
    scores[np.arange(60), true] = np.linspace(0.5, 0.6, 60)  # all right, the last the surest ...
    scores[7, [7, 2]] = 0.2, 0.9  # ... but number 7
    np.savez(
        directory / "predictions.npz",
        ids=np.array([f"clip{i}" for i in range(60)]),
        scores=scores,
        targets=np.eye(10, dtype=np.float32)[true],
    )
    _, shown = plain(directory)
    assert shown.texts["code"][:7] == ["clip7", "clip59", "clip58", "clip57", "clip56", "clip55", "clip54"]
    assert shown.texts["h4"][:2] == ["crying baby", "sea waves"]
    cards = [text for text in shown.texts["p"] if text.startswith("heard")]
    assert cards[0] == "heard: rain 0.900; crying baby 0.200; siren 0.010"
    assert len(cards) == 1 + 6


def test_sounds_are_embedded_whole_and_never_from_elsewhere(tmp_path):
    directory = write_fake_run(tmp_path / "run", **SMALL, audio=True)
    with np.load(directory / "predictions.npz") as stored:
        arrays = dict(stored)
    order = np.argsort(-arrays["scores"].max(axis=1))
    arrays["ids"] = arrays["ids"].astype(object)
    arrays["ids"][order] = [f"../../secret{i}" for i in range(60)]
    arrays["ids"] = arrays["ids"].astype(str)
    for i in range(60):
        (tmp_path / f"secret{i}.wav").write_bytes(b"RIFF not for the page")
    sound = (directory / "audio" / "1-00000-A.wav").read_bytes()
    _, shown = plain(directory)
    players = [r for r in shown.references if r.startswith("data:audio/wav;base64,")]
    assert len(players) == len([t for t in shown.tags if t == "article"]) > 6
    assert all(len(base64.b64decode(p.partition(",")[2])) == len(sound) for p in players)
    np.savez(directory / "predictions.npz", **arrays)
    html, shown = plain(directory)
    assert "audio" not in shown.tags
    assert base64.b64encode(b"RIFF not for the page").decode() not in html


def test_a_long_recording_is_named_but_not_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr("ast_jax.evaluation.report_scores.LARGEST_SOUND", 1000)
    html, shown = plain(write_fake_run(tmp_path, **SMALL, audio=True))
    assert "too long to embed" in html
    assert "audio" not in shown.tags


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "config.json is written when the run starts"),
        ("labels.txt", "class 3"),
        ("results.json", "results.json is not written yet"),
        ("predictions.npz", "predictions.npz comes with the evaluation"),
    ],
)
def test_what_is_missing_is_said(tmp_path, missing, words):
    directory = write_fake_run(tmp_path, **SMALL)
    assert words not in plain(directory)[0]
    (directory / missing).unlink()
    html, shown = plain(directory)
    assert shown.texts["h2"] == HEADINGS
    assert words in html


def test_the_plots_lie_beside_the_page_and_are_those_it_shows(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    html, _ = report(directory)
    files = {path.stem: path.read_bytes() for path in (directory / "plots").glob("*.png")}
    assert {"loss", "accuracy", "confusion", "spectrograms"} < set(files)
    light = re.findall(r'<img src="data:image/png;base64,([^"]+)" width', html)
    assert {base64.b64decode(png) for png in light} == set(files.values())


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a directory"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model_card.json",
        "labels.txt",
        "metrics.jsonl",
        "results.json",
        "predictions.npz",
        "examples.npz",
    ],
)
@pytest.mark.parametrize("damage", [b"", b"[1, 2]\n", b"\xff\xfe no text\n", "half"])
def test_a_damaged_file_is_named_on_the_page_and_stops_nothing(tmp_path, name, damage):
    path = write_fake_run(tmp_path, **SMALL) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    html, shown = plain(tmp_path)
    assert shown.texts["h2"] == HEADINGS
    text_is_whole = name in ("labels.txt", "metrics.jsonl") and damage in (b"", "half")
    text_is_whole |= name == "labels.txt" and damage == b"[1, 2]\n"
    assert (html.count(f'<p class="bad">{name} ') == 1) == (not text_is_whole)
    assert str(tmp_path) not in html


def test_a_damaged_line_costs_no_other_line(tmp_path):
    path = write_fake_run(tmp_path, **SMALL) / "metrics.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, "{half a li\n", *rest]))
    run = read_run(tmp_path)
    assert len(run.train) + len(run.evals) == 1 + len(rest)
    assert "metrics.jsonl holds lines that are no JSON objects: 1 left out" in page(run)


def test_scores_that_cannot_be_ranked_are_named(tmp_path):
    path = write_fake_run(tmp_path, **SMALL) / "predictions.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for broken in ({"scores": arrays["scores"][:-1]}, {"scores": arrays["scores"] * np.nan}):
        np.savez(path, **arrays | broken)
        assert "predictions.npz cannot be read" in plain(tmp_path)[0]
    np.savez(path, kernel=arrays["scores"])
    html, _ = plain(tmp_path)
    assert "predictions.npz holds no scores" in html
    assert str(tmp_path) not in html


def test_a_run_from_before_newer_keys_is_shown(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    results = {"metrics": {"accuracy": 0.5, "mAP": None}, "epoch": 3, "last": None}
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "config.json").write_text(json.dumps({"metric": "accuracy"}))
    (directory / "model_card.json").unlink()
    _, shown = plain(directory)
    assert shown.texts["dt"] == ["Accuracy", "mAP"]  # nothing of figures that nobody measured
    assert [text.strip() for text in shown.texts["dd"]] == ["50.0 %", "-"]
    assert shown.texts["p"][0] == "10 classes"


BASE = {"width": 768, "depth": 12, "num_heads": 12}


@pytest.mark.parametrize(
    ("settings", "built", "name"),
    [
        ({"variant": "base"}, BASE, "AST base"),
        ({"variant": "base"}, {"width": 128, "depth": 3, "num_heads": 2}, "AST, 3 blocks of width 128"),
        ({"variant": "base"}, {"width": 192, "depth": 12, "num_heads": 3}, "AST tiny"),
        ({"variant": "base"}, BASE | {"depth": 1}, "AST, 1 block of width 768"),
        ({"variant": "base"}, BASE | {"num_heads": 6}, "AST, 12 blocks of width 768"),
        ({"variant": "small"}, {}, "AST small"),
        ({"variant": "small", "width": 128, "depth": None}, {}, "AST, 12 blocks of width 128"),
        ({}, {}, ""),
        ({"family": "cnn14", "variant": "base"}, {}, "cnn14"),
    ],
)
def test_the_model_is_called_what_it_is(settings, built, name):
    assert model_name({"model": settings}, {"model": built}) == name


def test_the_card_names_the_family():
    assert model_name({"model": {"variant": "base"}}, {"family": "mine:Model", "model": BASE}) == "mine:Model"


def test_the_page_names_the_model(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    assert plain(directory)[1].texts["p"][0].startswith("data set esc50 · AST small · 10 classes")
    card = {"model": {"width": 128, "depth": 3, "num_heads": 2}}
    (directory / "model_card.json").write_text(json.dumps(card))
    assert "AST, 3 blocks of width 128" in plain(directory)[0]


def test_a_sound_that_cannot_be_heard_stops_nothing(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL, audio=True)
    for path in (directory / "audio").iterdir():
        path.write_bytes(b"RIFF of nothing")
    assert plain(directory)[1].texts["h2"] == HEADINGS


def test_plots_that_cannot_be_drawn_are_said_to_be_missing(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    (directory / "metrics.jsonl").unlink()
    (directory / "examples.npz").unlink()
    html, shown = report(directory)
    assert shown.tags.count("picture") == 1  # the confusion matrix
    assert html.count("metrics.jsonl is written while the run goes on") == 2
    assert "examples.npz is written when training starts" in html


def test_an_empty_directory_gives_a_page_of_missing_things(tmp_path):
    html, shown = report(tmp_path)
    assert shown.texts["h2"] == HEADINGS
    assert "No evaluation yet" in html
    assert "picture" not in shown.tags


@pytest.mark.parametrize(("off_by", "word"), [(0.009, "inside"), (0.011, "OUTSIDE"), (-0.011, "OUTSIDE")])
def test_the_gap_to_the_published_curve_raises_the_alarm(tmp_path, off_by, word):
    directory = write_fake_run(tmp_path, **SMALL)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]["accuracy"]
    config = json.loads((directory / "config.json").read_text())
    config["published"] = {"metric": "accuracy", "curve": {"3": last + off_by, "2": 0.5}, "band": 0.01}
    (directory / "config.json").write_text(json.dumps(config))
    html, shown = plain(directory)
    assert f"Epoch 3: {word} the published band" in html
    assert f"difference {-off_by:+.4f}" in html
    assert shown.texts["summary"] == ["Accuracy beside the published curve, epoch by epoch"]


def test_the_interval_belongs_to_the_figure_it_stands_under(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    assert "95 % over clips" in plain(directory)[0]
    results = json.loads((directory / "results.json").read_text())
    results["interval"]["level"] = 0.9
    (directory / "results.json").write_text(json.dumps(results))
    assert "90 % over clips" in plain(directory)[0]
    results["interval"]["metric"] = "mAP"  # of another figure than the one it would stand under
    (directory / "results.json").write_text(json.dumps(results))
    assert "over clips" not in plain(directory)[0]


def test_coverage_stands_beside_the_figures_where_clips_are_gone(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    results = json.loads((directory / "results.json").read_text()) | {
        "num_examples": 17_000,
        "expected_examples": 19_185,
    }
    (directory / "results.json").write_text(json.dumps(results))
    assert "17,000 of 19,185 evaluation clips were there (88.6 %)" in plain(directory)[0]


def test_the_difference_from_base_is_exactly_what_was_changed():
    config = json.loads(base().to_json_best_effort())
    assert config_difference(config) == []
    config["lr"] = 0.25
    config["model"]["strides"] = [16, 16]
    config["dataset"]["options"] = {"fold": 1}
    config["published"] = {"metric": "mAP", "curve": {"1": 0.4}, "band": 0.01}
    del config["loss"]
    assert sorted(config_difference(config)) == [
        ("dataset.options.fold", "-", "1"),
        ("loss", '"bce"', "-"),
        ("lr", "5e-05", "0.25"),
        ("model.strides", "[10, 10]", "[16, 16]"),
        ("published.band", "-", "0.01"),
        ("published.metric", "-", '"mAP"'),
    ]
