#!/usr/bin/env bash
# Prints the path of a uv that starts: the one on PATH, otherwise a private one in .tools, which
# is installed when missing. With --private the one on PATH is passed over.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last uv series that can download CPython 3.7: later ones no longer list it.
readonly version=0.6.17
readonly private="$PWD/.tools/bin/uv"

if [[ ${1:-} != --private ]] && uv --version >/dev/null 2>&1; then
    command -v uv
    exit
fi

if [[ $("$private" --version 2>/dev/null) != "uv $version"* ]]; then
    # The wheel only carries a native program: a Python too old for its metadata can unpack it.
    if ! { python3 -m venv --clear .tools &&
        .tools/bin/python -m pip install --quiet --disable-pip-version-check \
            --ignore-requires-python "uv==$version"; } >&2; then
        echo "No uv: none on PATH, and python3 could not install uv==$version into .tools (see" \
            "above); install uv, or Python 3.8 or newer with its venv module." >&2
        exit 1
    fi
fi
echo "$private"
