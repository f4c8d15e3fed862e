#!/bin/sh
# A batch system of one machine: jobs.sh send SCRIPT prints an id; jobs.sh state ID prints running,
# success or failed; jobs.sh end ID... ends jobs. A job that ends without a word has failed.
set -eu
states="${EFFDL_JOBS:-${TMPDIR:-/tmp}/effdl-jobs-$(id -u)}"
mkdir -p "$states"
what="$1"
shift
case "$what" in
send)
    # the id is that of the job's process group
    EFFDL_STATES="$states" setsid sh -c '
        sh "$1" >/dev/null 2>&1 && state=success || state=failed
        echo "$state" >"$EFFDL_STATES/$$"' job "$1" </dev/null >/dev/null 2>&1 &
    echo "$!"
    ;;
state)
    if [ -f "$states/$1" ]; then
        cat "$states/$1"
    elif kill -0 "$1" 2>/dev/null; then
        echo running
    elif sleep 1 && [ -f "$states/$1" ]; then # it ended between the two looks
        cat "$states/$1"
    else
        echo failed
    fi
    ;;
end)
    for job in "$@"; do
        kill -s TERM -- "-$job" 2>/dev/null || true
    done
    ;;
*)
    echo "jobs.sh: $what is unknown; allowed: send, state, end" >&2
    exit 2
    ;;
esac
