#!/usr/bin/env bash
# Makes .venv from requirements.lock, and for the argument `dev` from requirements-dev.lock too.
# Does nothing when that is already so.
#
# .venv/made-from tells the state: it is there first and empty, and gets the locks when all is
# done. So a run that was killed is never taken for a finished one, and a .venv without that file
# is somebody else's.
set -euo pipefail
cd "$(dirname "$0")/.."

locks=(requirements.lock)
if [[ ${1:-} == dev ]]; then
    locks+=(requirements-dev.lock)
fi

made_from() {
    .venv/bin/python -c '' 2>/dev/null && cat "$@" | cmp --silent - .venv/made-from
}

# Two makes at once (a demo and a test in two windows) take turns.
exec 9<tools/make_venv.sh
flock 9

if made_from "${locks[@]}" || made_from requirements.lock requirements-dev.lock; then
    exit
fi
if [[ -e .venv && ! -e .venv/made-from ]]; then
    echo ".venv was not made by make: move it away or delete it, then run make again." >&2
    exit 1
fi

uv=$(tools/find_uv.sh)
if ! made_from requirements.lock; then
    python=$(tools/find_python37.sh)
    echo "Making .venv with $python"
    mkdir -p .venv
    : >.venv/made-from
    find .venv/ -mindepth 1 ! -path .venv/made-from -delete
    "$uv" venv --quiet --allow-existing --python "$python" .venv
fi
: >.venv/made-from
"$uv" pip install --python .venv/bin/python --require-hashes "${locks[@]/#/--requirements=}"
cat "${locks[@]}" >.venv/made-from
