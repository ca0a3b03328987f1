#!/usr/bin/env bash
# Two ensembles on full AudioSet, of AST's or PSLA's runs, one after the other on all devices, then evaluated.
# Ensemble-S: three seeds of one setting. Ensemble-M: of AST those and strides of 12, 14, 16; of PSLA the ten
# published models, as_mdl_0.pth to as_mdl_9.pth in PUBLISHED, for the settings of seven are not known.
# Published mAP: AST .475 and .485, PSLA .464 and .474; balanced .363 and .378, .345 and .362, of whose
# Ensembles-M no member is known.
#
#   launch/audioset_ensembles.sh [--dry_run] SOURCE_DIR WORKDIR [--config.KEY=VALUE ...]
#   RECIPE=psla PUBLISHED=DIR launch/audioset_ensembles.sh SOURCE_DIR WORKDIR
#
# The same command again does what is missing. PYTHON (.venv/bin/python); SUFFIX after the recipe's colon,
# such as balanced.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source_dir=$1 workdir=$2 name=${RECIPE:-audioset}
case $name in audioset | psla) ;; *) echo "error: RECIPE=$name: choose audioset or psla" >&2; exit 2 ;; esac
shift 2

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

python=${PYTHON:-.venv/bin/python}
recipe=("--config=configs/$name.py:${SUFFIX:-}" "--config.dataset.source_dir=$source_dir" "$@")
train() { # NAME FLAG: the member WORKDIR/NAME
    run "$python" -m ast_jax group "${recipe[@]}" "$2" --workdir="$workdir/$1"
}
# PSLA's members are its runs' last epochs
which=() strides=(12 14 16)
[ "$name" = audioset ] || which=(--which=last) strides=()
evaluate() { # NAME MEMBER...: their mean, its scores in WORKDIR/NAME.npz
    run "$python" -m ast_jax evaluate "${@:2}" "${recipe[@]}" "${which[@]}" --out="$workdir/$1.npz"
}

run "$python" -m ast_jax prepare "${recipe[@]}"
for seed in 0 1 2; do train "seed$seed" "--config.seed=$seed"; done
for stride in "${strides[@]}"; do train "stride$stride" "--config.model.strides=($stride, $stride)"; done

small=("$workdir"/seed{0,1,2})
echo "Ensemble-S"
evaluate ensemble_s "${small[@]}"
if [ "$name" = audioset ]; then
    echo "Ensemble-M"
    evaluate ensemble_m "${small[@]}" "$workdir"/stride{12,14,16}
elif [ -n "${PUBLISHED:-}" ]; then
    echo "Ensemble-M, of the published models"
    evaluate ensemble_m "$PUBLISHED"/as_mdl_{0,1,2,3,4,5,6,7,8,9}.pth
else
    echo "Ensemble-M left out: PUBLISHED=DIR says where its ten models are"
fi
