#!/usr/bin/env bash
# The AST paper's table 1: every system's run, and the table of ours beside the published figures.
#
#   launch/table_one.sh [--dry_run] [--out=DIR] [--words=WORDS] [-- FLAGS ...]
#
#   launch/table_one.sh -- --config.dataset.source_dir=audioset          # the balanced set
#   launch/table_one.sh -- --rows=cnn14,psla,ast ...                     # without the ensembles' runs
#   launch/table_one.sh --words=full -- --config.dataset.source_dir=audioset
#   launch/table_one.sh --words=builtin                                  # minutes on a laptop
#   launch/table_one.sh --words=esc10 -- --config.dataset.source_dir=ESC-50-master \
#       "--config.dataset.options={'only_esc10': True}"
#
# Each row is a run of its own in DIR/ROW, an ensemble the mean of several; the same command again goes on where
# it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"

[ $# -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=runs/table_one words='' run=''
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) run='echo' ;;
        --out=*) out=${1#*=} ;;
        --words=*) words=${1#*=} ;;
        --) shift; break ;;
        *) echo "error: no option $1; see the head of launch/table_one.sh" >&2; exit 2 ;;
    esac
    shift
done

python=${PYTHON:-.venv/bin/python}
if [ -z "$run" ] && ! command -v "$python" >/dev/null; then
    echo "error: no $python: 'make environment' makes it, or set PYTHON" >&2
    exit 2
fi
$run "$python" -m ast_jax ablate --config="configs/table_one.py:systems${words:+,$words}" --workdir="$out" "$@"
