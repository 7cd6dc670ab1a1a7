#!/usr/bin/env bash
# Prints the path of a CPython 3.7, the newest Python that TensorFlow 1.15 has wheels for.
# Asks $PYTHON37, PATH, pyenv's folder and uv, in this order.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the interpreter behind a command, or fails when that is no CPython 3.7 or does not start,
# as a pyenv shim may not. The python of a virtual environment is answered with its base, because
# an activated .venv may be about to be remade.
interpreter_behind() {
    "$1" -c '
import os, platform, sys
if platform.python_implementation() != "CPython" or sys.version_info[:2] != (3, 7):
    sys.exit(1)
print(os.path.join(sys.base_prefix, "bin", "python3.7"))
' 2>/dev/null
}

fail() {
    echo "$*" >&2
    exit 1
}

if [[ -n ${PYTHON37:-} ]]; then
    interpreter_behind "$PYTHON37" ||
        fail "PYTHON37=$PYTHON37 is not a CPython 3.7 that starts:" \
            "correct it, or unset it to search for one."
    exit
fi

pyenv_versions=${PYENV_ROOT:-~/.pyenv}/versions
mapfile -t candidates < <(
    type -aP python3.7 || true
    printf '%s\n' "$pyenv_versions"/3.7.*/bin/python3.7 | sort --version-sort --reverse
)
for candidate in "${candidates[@]}"; do
    interpreter_behind "$candidate" && exit
done

uv=$(tools/find_uv.sh)
found=$("$uv" python find --system 3.7 2>/dev/null) && interpreter_behind "$found" && exit

# The private uv, because the one on PATH may be too new to know where to get a CPython 3.7.
uv=$(tools/find_uv.sh --private)
"$uv" python install --quiet 3.7 2>/dev/null &&
    found=$("$uv" python find --system 3.7 2>/dev/null) && interpreter_behind "$found" && exit

fail "No CPython 3.7 that starts: tried \$PYTHON37 (not set), python3.7 on PATH, $pyenv_versions," \
    "\`uv python find 3.7\` and \`$uv python install 3.7\` (run it to see why it failed);" \
    "install one, for example with \`pyenv install 3.7\`, or set PYTHON37=/path/to/python3.7."
