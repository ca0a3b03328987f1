"""The report of invented runs: one page that holds everything, loads nothing, and trusts no name."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_run import SOUNDS, write_fake_run

from ast_jax.config import base
from ast_jax.evaluation.report import config_difference, write_report

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
    """Reads a page strictly: every tag is closed in order. Collects what it refers to, its headings, text and table cells."""

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


@pytest.fixture
def without_plots(monkeypatch):
    """For tests of everything else on the page: plots take most of the time."""
    monkeypatch.setattr("ast_jax.evaluation.report.pictures", lambda run, theme: [])


def report(directory) -> tuple[str, Page]:
    html = write_report(directory).read_text(encoding="utf-8")
    return html, Page(html)


def test_a_finished_run_fills_every_section(tmp_path):
    html, page = report(write_fake_run(tmp_path / "my run", **SMALL))
    assert page.texts["h2"] == HEADINGS
    assert page.texts["h1"] == ["my run"]
    assert not re.search(r"not written yet|No .{1,30} yet", html)
    figures = 8 + 1 + 1  # curves and speed, confusion matrix, spectrograms
    assert page.tags.count("picture") == figures
    for value in ("20 min 34 s", "0.12.0.1", "60 clips evaluated", "Most often mixed up"):
        assert value in html


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    html, page = report(write_fake_run(tmp_path, **SMALL, audio=True))
    assert len(page.references) > 20
    assert all(
        reference.startswith(("data:image/png;", "data:audio/wav;", "#")) for reference in page.references
    )
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html  # and the browser is told so
    assert not any(name.startswith("on") for name in page.attributes)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    assert str(tmp_path) not in html


def test_every_name_from_outside_is_escaped(tmp_path, without_plots):
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
    html, page = report(directory)
    assert page.tags.count("script") == 1
    assert "alert(" not in page.texts["script"][0]
    assert "<img src=x>" not in html
    assert page.texts["h1"] == ["a<b>"]
    assert html.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;img src=x&gt;") > 10


def test_the_class_table_is_sorted_by_ap_and_ready_to_be_sorted(tmp_path, without_plots):
    directory = write_fake_run(tmp_path, **SMALL)
    results = json.loads((directory / "results.json").read_text())
    results["per_class"][3] |= {"ap": None, "auc": None, "d_prime": None, "accuracy": None, "positives": 0}
    (directory / "results.json").write_text(json.dumps(results))
    html, page = report(directory)
    rows = np.array(page.sort_keys).reshape(10, 6)  # name, AP, AUC, d', recall, clips
    values = [float(v) for v in rows[:-1, 1]]
    assert values == sorted(values, reverse=True)
    assert rows[-1].tolist() == ["bell", "", "", "", "", "0"]
    assert set(rows[:, 0]) == set(SOUNDS)
    assert page.texts["button"] == ["class", "AP", "AUC", "d'", "recall", "clips"]
    assert html.count('aria-sort=descending"') + html.count("aria-sort=descending>") == 1
    assert "1 classes without a true clip" in html


def test_worst_and_best_clips_are_the_most_confident(tmp_path, without_plots):
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
    _, page = report(directory)
    assert page.texts["code"][:7] == ["clip7", "clip59", "clip58", "clip57", "clip56", "clip55", "clip54"]
    assert page.texts["h4"][:2] == ["crying baby", "sea waves"]
    cards = [text for text in page.texts["p"] if text.startswith("heard")]
    assert cards[0] == "heard: rain 0.900; crying baby 0.200; siren 0.010"
    assert len(cards) == 1 + 6


def test_sounds_are_embedded_whole_and_never_from_elsewhere(tmp_path, without_plots):
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
    _, page = report(directory)
    players = [r for r in page.references if r.startswith("data:audio/wav;base64,")]
    assert len(players) == len([t for t in page.tags if t == "article"]) > 6
    assert all(len(base64.b64decode(p.partition(",")[2])) == len(sound) for p in players)
    np.savez(directory / "predictions.npz", **arrays)
    html, page = report(directory)
    assert "audio" not in page.tags
    assert base64.b64encode(b"RIFF not for the page").decode() not in html


def test_a_long_recording_is_named_but_not_embedded(tmp_path, monkeypatch, without_plots):
    monkeypatch.setattr("ast_jax.evaluation.report_clips.LARGEST_SOUND", 1000)
    html, page = report(write_fake_run(tmp_path, **SMALL, audio=True))
    assert "too long to embed" in html
    assert "audio" not in page.tags


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "config.json is written when the run starts"),
        ("labels.txt", "class 3"),
        ("results.json", "results.json is not written yet"),
        ("predictions.npz", "predictions.npz comes with the evaluation"),
    ],
)
def test_what_is_missing_is_said(tmp_path, without_plots, missing, words):
    directory = write_fake_run(tmp_path, **SMALL)
    assert words not in report(directory)[0]
    (directory / missing).unlink()
    html, page = report(directory)
    assert page.texts["h2"] == HEADINGS
    assert words in html


def test_plots_that_cannot_be_drawn_are_said_to_be_missing(tmp_path):
    directory = write_fake_run(tmp_path, **SMALL)
    (directory / "metrics.jsonl").unlink()
    (directory / "examples.npz").unlink()
    html, page = report(directory)
    assert page.tags.count("picture") == 1  # the confusion matrix
    assert html.count("metrics.jsonl is written while the run goes on") == 2
    assert "examples.npz is written when training starts" in html


def test_an_empty_directory_gives_a_page_of_missing_things(tmp_path):
    html, page = report(tmp_path)
    assert page.texts["h2"] == HEADINGS
    assert "No evaluation yet" in html
    assert "picture" not in page.tags


@pytest.mark.parametrize(("off_by", "word"), [(0.009, "inside"), (0.011, "OUTSIDE"), (-0.011, "OUTSIDE")])
def test_the_gap_to_the_published_curve_raises_the_alarm(tmp_path, without_plots, off_by, word):
    directory = write_fake_run(tmp_path, **SMALL)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]["accuracy"]
    config = json.loads((directory / "config.json").read_text())
    config["published"] = {"metric": "accuracy", "curve": {"3": last + off_by, "2": 0.5}, "band": 0.01}
    (directory / "config.json").write_text(json.dumps(config))
    html, page = report(directory)
    assert f"Epoch 3: {word} the published band" in html
    assert f"difference {-off_by:+.4f}" in html
    assert page.texts["summary"] == ["Accuracy beside the published curve, epoch by epoch"]


def test_the_interval_belongs_to_the_figure_it_stands_under(tmp_path, without_plots):
    directory = write_fake_run(tmp_path, **SMALL)
    assert "95 % over clips" in report(directory)[0]
    results = json.loads((directory / "results.json").read_text())
    results["interval"]["metric"] = "mAP"  # of another figure than the one it would stand under
    (directory / "results.json").write_text(json.dumps(results))
    assert "95 % over clips" not in report(directory)[0]


def test_coverage_stands_beside_the_figures_where_clips_are_gone(tmp_path, without_plots):
    directory = write_fake_run(tmp_path, **SMALL)
    results = json.loads((directory / "results.json").read_text()) | {
        "num_examples": 17_000,
        "expected_examples": 19_185,
    }
    (directory / "results.json").write_text(json.dumps(results))
    assert "17,000 of 19,185 evaluation clips were there (88.6 %)" in report(directory)[0]


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
