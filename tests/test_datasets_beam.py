"""Preparing through Apache Beam gives what one machine gives, in the same order.

Beam's local runner with two worker processes.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sound_trees import class_tree

from ast_jax.commands import invoke
from ast_jax.datasets.prepare import BeamRun, prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
RUNNER = "FnApiRunner"  # DirectRunner chooses between this one and one it downloads
FLAGS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[PreparedSet, PreparedSet]:
    """One tree with a bad file, prepared here and through Beam, in 13 shards.

    That is more than sort alike as numbers and as text.
    """
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install apache-beam")
    from ast_jax.datasets import shards

    root = tmp_path_factory.mktemp("beam")
    source = class_tree(root / "set", {"a": 13, "b": 13}, num_samples=800)
    (source / "a" / "text.wav").write_text("text")
    common = {"source_dir": source, "max_skipped": 0.1, "workers": 1, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CLIPS_PER_SHARD", 2)
        here = prepare("folder", data_dir=root / "here", **common)
        # workers know the sounds under another name, as on a cluster
        (root / "elsewhere").symlink_to(source)
        run = BeamRun(RUNNER, FLAGS, {str(source): str(root / "elsewhere")})
        there = prepare("folder", data_dir=root / "there", beam=run, **common)
    return here, there


def test_the_files_are_the_same(both):
    """By name, and by content but for shards: an example's fields may differ in order between processes."""
    here, there = (
        {file.name: file.read_bytes() for file in prepared.directory.iterdir()} for prepared in both
    )
    assert len([name for name in here if "train" in name]) == 11
    assert here.keys() == there.keys()
    assert {name for name in here if here[name] != there[name] and "array_record" not in name} <= {
        "metadata.json"  # when, and how long it took
    }


def test_figures_and_what_was_skipped_are_the_same(both):
    here, there = (prepared.metadata for prepared in both)
    alone = {"created", "seconds"}
    differ = {key for key in here if here[key] != there[key]}
    assert here.keys() == there.keys()
    assert differ <= alone
    with (both[1].directory / "skipped.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["not audio"]


def test_examples_read_back_in_order(both):
    sources = [prepared.source(["train", "test"]) for prepared in both]
    assert [len(source) for source in sources] == [26, 26]
    for one, two in zip(*sources, strict=True):
        assert one["id"] == two["id"]
        assert np.array_equal(one["fbank"], two["fbank"])


def test_the_command_passes_the_options_on(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install apache-beam")
    source = class_tree(tmp_path / "set", {"a": 5}, num_samples=800)
    command = [sys.executable, "-m", "ast_jax", "prepare", "--config=configs/folder.py"]
    command += [f"--config.dataset.source_dir={source}", f"--config.dataset.data_dir={tmp_path}"]
    command += [f"--beam_runner={RUNNER}", "--direct_num_workers=1", "--direct_running_mode=in_memory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert PreparedSet(done.stdout.strip()).num_examples(["train", "test"]) == 5


def test_flags_reach_beams_options():
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install apache-beam")
    from ast_jax.datasets.beam import pipeline_options

    flags = ("--flink_master=host:8081", "--project=p", "--region=r", "--spark_master_url=local[2]")
    given = pipeline_options(flags).get_all_options()
    assert (given["flink_master"], given["project"], given["region"]) == ("host:8081", "p", "r")
    assert given["spark_master_url"] == "local[2]"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flink_master=x"], "--flink_master=x is for Apache Beam: give --beam_runner too"),
        (["--beam_place=a=b"], "--beam_place is for Apache Beam"),
        (["--beam_runner=FlinkRunner", "--beam_place=a"], "--beam_place=a: write it as HERE=THERE"),
    ],
)
def test_wrong_flags_are_told(flags, message):
    with pytest.raises(InputError, match=message):
        invoke("prepare", ["--config=configs/folder.py", *flags])
