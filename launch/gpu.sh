#!/usr/bin/env bash
# Trains on all GPUs of this machine, in one process, started again when it dies. Makes .venv-gpu the first
# time.
#
#   launch/gpu.sh [--dry_run] --config=configs/audioset.py [--config.KEY=VALUE ...] [--workdir=DIR]
#
# CUDA_VISIBLE_DEVICES chooses some of them. The batch size is that of all GPUs together.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

if [ -z "$dry_run" ] && ! nvidia-smi --list-gpus; then
    echo "no GPU here: nvidia-smi lists none" >&2
    exit 2
fi
if [ ! -x .venv-gpu/bin/python ]; then
    run "$(launch/find_python.sh)" -m venv .venv-gpu
    run .venv-gpu/bin/pip install -q -e '.[cuda]'
fi
run .venv-gpu/bin/python -m ast_jax group "$@"
