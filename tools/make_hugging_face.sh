#!/usr/bin/env bash
# Makes .venv-hugging-face from requirements-hugging-face.txt: CPython 3.11 with PyTorch for CPUs.
# Does nothing when that is already so.
#
# PyTorch's CPU build is not on the Python package index. It is looked for where pip has been told
# to look (PIP_FIND_LINKS), then where uv knows it to be.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly requirements=requirements-hugging-face.txt
readonly venv=.venv-hugging-face

# Two makes at once take turns.
exec 9<tools/make_hugging_face.sh
flock 9

if "$venv/bin/python" -c '' 2>/dev/null && cmp --silent "$requirements" "$venv/made-from"; then
    exit
fi
if [[ -e $venv && ! -e $venv/made-from ]]; then
    echo "$venv was not made by make: move it away or delete it, then run make again." >&2
    exit 1
fi

uv=$(tools/find_uv.sh)
echo "Making $venv"
# As in make_venv.sh: made-from is there first and empty, and is filled when all is done.
mkdir -p "$venv"
: >"$venv/made-from"
find "$venv/" -mindepth 1 ! -path "$venv/made-from" -delete
"$uv" venv --quiet --allow-existing --python 3.11 "$venv"

install() {
    "$uv" pip install --python "$venv/bin/python" --requirements "$requirements" "$@"
}
if ! install ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} 2>/dev/null; then
    install --torch-backend cpu
fi
cp "$requirements" "$venv/made-from"
