#!/usr/bin/env bash
# Trains on a Cloud TPU slice: asks for it as a queued resource, copies this checkout, installs, runs the
# same command on every worker; when the slice is taken away, asks again and goes on from the last
# checkpoint; deletes it at the end.
#
#   launch/tpu_vm.sh [--dry_run] NAME ZONE TYPE --config=configs/audioset.py --workdir=/mnt/runs/as [...]
#
# TYPE is an accelerator type: v5litepod-8, v4-32 (16 chips), v6e-8 ... Environment: SETUP, a command run on
# every worker after the installation, to mount what the work directory and the shards lie on; SPOT=0 for
# capacity that is not taken away (and costs more); RUNTIME for another image; POLL_S (30) seconds between
# looks; ATTEMPTS (100).
set -euo pipefail
cd "$(dirname "$0")/.."
dry_run=
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
[ $# -ge 4 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=$1 zone=$2 type=$3
shift 3
case $type in
    v5lite*) image=v2-alpha-tpuv5-lite ;;
    v5p*) image=v2-alpha-tpuv5 ;;
    v6e*) image=v2-alpha-tpuv6e ;;
    *) image=tpu-ubuntu2204-base ;;
esac
printf -v command '%q ' GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv/bin/python -m ast_jax.main "$@"
install='sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv'
install+=' && python3.11 -m venv ast_jax/.venv && cd ast_jax && tar xzf ../ast_jax.tar.gz'
install+=' && .venv/bin/pip install -q -e ".[tpu]"'

run() { # COMMAND...: runs it, or prints it
    if [ -n "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}
queued() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"; }
workers() { run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }
describe() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format="$1"; }
state() { describe 'value(state.state)' 2>/dev/null; }

set_up() {
    local spot=(--spot)
    [ "${SPOT:-1}" != 0 ] || spot=()
    queued create --node-id="$name" --accelerator-type="$type" --runtime-version="${RUNTIME:-$image}" \
        "${spot[@]}"
    until [ -n "$dry_run" ] || [ "$(state)" = ACTIVE ]; do sleep "${POLL_S:-30}"; done
    run git archive --format=tar.gz --output="${TMPDIR:-/tmp}/ast_jax.tar.gz" HEAD
    run gcloud compute tpus tpu-vm scp "${TMPDIR:-/tmp}/ast_jax.tar.gz" "$name:" --zone="$zone" --worker=all
    workers "$install"
    [ -z "${SETUP:-}" ] || workers "$SETUP"
}
delete() { queued delete --force --quiet || true; }

trap delete EXIT # also after Ctrl-C: a slice that nobody uses costs as much as one in use
for ((attempt = 1; attempt <= ${ATTEMPTS:-100}; attempt++)); do
    if [ -n "$dry_run" ] || [ "$(state)" != ACTIVE ]; then
        [ "$attempt" = 1 ] || delete
        set_up
    fi
    status=0
    workers "cd ast_jax && $command" || status=$?
    case $status in 0 | 2 | 3 | 130) exit "$status" ;; esac
    echo "attempt $attempt ended with status $status, the slice is $(state || echo gone):" \
        "once more, from the last checkpoint" >&2
done
exit "$status"
