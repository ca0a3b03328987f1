#!/usr/bin/env bash
# The paper's two ensembles on full AudioSet: Ensemble-S, three seeds of one setting; Ensemble-M, those and
# strides of 12, 14, 16. Published: mAP 0.475 and 0.485 (table 2). Six runs, one after the other on all
# devices; then both are evaluated.
#
#   launch/audioset_ensembles.sh [--dry_run] SOURCE_DIR WORKDIR [--config.KEY=VALUE ...]
#
# The same command again does what is missing. PYTHON (.venv/bin/python); SUFFIX after the recipe's colon,
# such as balanced.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source_dir=$1 workdir=$2
shift 2

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

python=${PYTHON:-.venv/bin/python}
recipe=("--config=configs/audioset.py:${SUFFIX:-}" "--config.dataset.source_dir=$source_dir" "$@")
train() { # NAME FLAG: the member WORKDIR/NAME
    run "$python" -m ast_jax group "${recipe[@]}" "$2" --workdir="$workdir/$1"
}

run "$python" -m ast_jax prepare "${recipe[@]}"
for seed in 0 1 2; do train "seed$seed" "--config.seed=$seed"; done
for stride in 12 14 16; do train "stride$stride" "--config.model.strides=($stride, $stride)"; done

small=("$workdir"/seed{0,1,2})
echo "Ensemble-S"
run "$python" -m ast_jax evaluate "${small[@]}" "${recipe[@]}" --out="$workdir/ensemble_s.npz"
echo "Ensemble-M"
all=("${small[@]}" "$workdir"/stride{12,14,16})
run "$python" -m ast_jax evaluate "${all[@]}" "${recipe[@]}" --out="$workdir/ensemble_m.npz"
