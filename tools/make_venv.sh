#!/usr/bin/env bash
# Makes the environment that $TF names from the lock of its build of TensorFlow, and for the
# argument `dev` from the lock of the checks too. Does nothing when that is already so.
#
# made-from in its folder tells the state: it is there first and empty, and gets the locks when all
# is done. So a run that was killed is never taken for a finished one, and a folder without that
# file is somebody else's.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two makes at once (a demo and a test in two windows) take turns.
exec 9<tools/make_venv.sh
flock 9
source tools/environment.sh

readonly lock=$build.lock dev_lock=$requirements-dev.lock
locks=("$lock")
if [[ ${1:-} == dev ]]; then
    locks+=("$dev_lock")
fi

made_from() {
    "$venv/bin/python" -c '' 2>/dev/null && cat "$@" | cmp --silent - "$venv/made-from"
}

if made_from "${locks[@]}" || made_from "$lock" "$dev_lock"; then
    exit
fi
if [[ -e $venv && ! -e $venv/made-from ]]; then
    echo "$venv was not made by make: move it away or delete it, then run make again." >&2
    exit 1
fi

uv=$(tools/find_uv.sh)
if ! made_from "$lock"; then
    python=$(tools/find_python.sh "${pythons[@]}")
    echo "Making $venv with $python"
    mkdir -p "$venv"
    : >"$venv/made-from"
    find "$venv/" -mindepth 1 ! -path "$venv/made-from" -delete
    "$uv" venv --quiet --allow-existing --python "$python" "$venv"
fi
: >"$venv/made-from"
# The locks are complete, and take what the overrides say, which a resolver would not.
"$uv" pip install --python "$venv/bin/python" --require-hashes --no-deps \
    "${locks[@]/#/--requirements=}"
cat "${locks[@]}" >"$venv/made-from"
if [[ $build == *-gpu ]] && ! has_driver; then
    echo "There is no NVIDIA driver on this machine: TensorFlow will compute on the CPU here."
fi
