#!/usr/bin/env bash
# Trains on several nodes under SLURM, one process a GPU. Submits itself; goes on from the last checkpoint
# when a process dies, when the job is preempted, and when its time is over.
#
#   launch/slurm.sh [--dry_run] NODES --config=configs/audioset.py --workdir=/shared/runs/as [...]
#
# The checkout, its .venv-gpu (launch/gpu.sh makes one), data and work directory lie where every node sees
# them. SBATCH_... variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT) reach sbatch as they are;
# GPUS (8) is those of a node.
set -euo pipefail
if [ -n "${AST_JAX_ROOT:-}" ]; then cd "$AST_JAX_ROOT"; else cd "$(dirname "$0")/.."; fi # SLURM runs a copy
# memory in pages of 2 MiB, see docs/benchmarks.md
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
nodes=$1 gpus=${GPUS:-8}
shift

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}
if [ -z "${AST_JAX_ROOT:-}" ] || [ -n "$dry_run" ]; then
    export AST_JAX_ROOT=$PWD
    run sbatch --job-name=ast_jax --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" \
        --exclusive --requeue --open-mode=append --signal=TERM@120 --export=ALL \
        "$PWD/launch/slurm.sh" "$nodes" "$@"
    [ -n "$dry_run" ] || exit 0
fi
# SIGTERM, which SLURM sends to all processes two minutes before the time is over, makes them save and leave
# with status 143.
for ((attempt = 1; attempt <= 20; attempt++)); do
    status=0
    run srun --nodes="$nodes" --ntasks-per-node="$gpus" --kill-on-bad-exit=1 \
        .venv-gpu/bin/python -m ast_jax.main "$@" || status=$?
    case $status in
        0 | 2 | 3 | 130) exit "$status" ;;
        143) run scontrol requeue "$SLURM_JOB_ID" && exit 0 ;;
    esac
    again="once more, from the last checkpoint ($attempt of at most 20)"
    echo "a process of the group ended with status $status: $again" >&2
done
exit "$status"
