#!/usr/bin/env bash
# All five folds of ESC-50, side by side on this machine's GPUs, one process each; then mean and spread.
#
#   launch/esc50_folds.sh [--dry_run] SOURCE_DIR WORKDIR [P|S|...] [--seeds=3] [--config.KEY=VALUE ...]
#
# SOURCE_DIR is ESC-50-master; P starts from the AudioSet checkpoint (the default), S from ImageNet. The
# same command again does what is missing. PYTHON (.venv/bin/python); CUDA_VISIBLE_DEVICES chooses some
# GPUs; without any, one fold at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source_dir=$1 workdir=$2 words=P
shift 2
case ${1:---} in --*) ;; *) words=$1 && shift ;; esac

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

python=${PYTHON:-.venv/bin/python}
recipe=("--config=configs/esc50.py:$words" "--config.dataset.source_dir=$source_dir")
gpus() { nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true; }
devices=${CUDA_VISIBLE_DEVICES-$(gpus)}
run "$python" -m ast_jax prepare "${recipe[@]}" # once, before the folds ask for it at the same time
run "$python" -m ast_jax crossval "${recipe[@]}" --workdir="$workdir" --devices="$devices" "$@"
