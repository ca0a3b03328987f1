#!/usr/bin/env bash
# The paper's ablations, a table each.
#
#   launch/ablations.sh [--dry_run] [--out=DIR] [--words=WORDS] [TABLE ...] [-- FLAGS ...]
#
#   launch/ablations.sh -- --config.dataset.source_dir=audioset        # all five tables, the balanced set
#   launch/ablations.sh --words=full strides                         # where the paper has figures of it
#   launch/ablations.sh --words=builtin                              # minutes on a laptop: nothing to download
#
# Each row is a run of its own in DIR/TABLE/ROW; the same command again goes on where it stopped.
# DIR/TABLE/ablation.md is the table.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"

out=runs/ablations words='' run='' tables=()
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) run='echo' ;;
        --out=*) out=${1#*=} ;;
        --words=*) words=${1#*=} ;;
        --) shift; break ;;
        -*) echo "error: no option $1; see the head of launch/ablations.sh" >&2; exit 2 ;;
        *) tables+=("$1") ;;
    esac
    shift
done
[ ${#tables[@]} -gt 0 ] || tables=(imagenet vit positions strides patches)

python=${PYTHON:-.venv/bin/python}
if [ -z "$run" ] && ! command -v "$python" >/dev/null; then
    echo "error: no $python: 'make environment' makes it, or set PYTHON" >&2
    exit 2
fi
for table in "${tables[@]}"; do
    recipe=configs/ablations.py:$table${words:+,$words}
    $run "$python" -m ast_jax ablate --config="$recipe" --workdir="$out/$table" "$@"
done
for table in "${tables[@]}"; do
    [ -n "$run" ] || cat "$out/$table/ablation.md"
done
