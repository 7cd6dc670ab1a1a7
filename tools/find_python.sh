#!/usr/bin/env bash
# Prints the path of a CPython in the first of the given versions that there is, such as
# `tools/find_python.sh 3.11 3.10`. Asks $PYTHON311 and its like, and then for one version after the
# other PATH, pyenv's folder and uv. Where none has any, uv installs the first version.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly versions=("$@")
readonly pyenv_versions=${PYENV_ROOT:-~/.pyenv}/versions

# Prints the interpreter behind a command, or fails when that is no CPython of this version or does
# not start, as a pyenv shim may not. The python of a virtual environment is answered with its base,
# because an activated environment may be about to be remade.
interpreter_behind() {
    local command=$1 version=$2
    "$command" -c '
import os, platform, sys
version = "%d.%d" % sys.version_info[:2]
if platform.python_implementation() != "CPython" or version != sys.argv[1]:
    sys.exit(1)
print(os.path.join(sys.base_prefix, "bin", "python" + version))
' "$version" 2>/dev/null
}

fail() {
    echo "$*" >&2
    exit 1
}

# The variable with which a user chooses the interpreter: PYTHON37 for 3.7.
variable_of() {
    echo "PYTHON${1/./}"
}

find_installed() {
    local version=$1 candidates candidate
    mapfile -t candidates < <(
        type -aP "python$version" || true
        printf '%s\n' "$pyenv_versions/$version".*/bin/"python$version" |
            sort --version-sort --reverse
    )
    for candidate in "${candidates[@]}"; do
        interpreter_behind "$candidate" "$version" && return
    done
    find_with_uv "$(tools/find_uv.sh)" "$version"
}

find_with_uv() {
    local uv=$1 version=$2 found
    found=$("$uv" python find --system "$version" 2>/dev/null) &&
        interpreter_behind "$found" "$version"
}

for version in "${versions[@]}"; do
    variable=$(variable_of "$version")
    if [[ -n ${!variable:-} ]]; then
        interpreter_behind "${!variable}" "$version" ||
            fail "$variable=${!variable} is not a CPython $version that starts:" \
                "correct it, or unset it to search for one."
        exit
    fi
done
for version in "${versions[@]}"; do
    find_installed "$version" && exit
done

# The private uv, because the one on PATH may be too new to know where to get a CPython 3.7.
uv=$(tools/find_uv.sh --private)
version=${versions[0]}
"$uv" python install --quiet "$version" 2>/dev/null && find_with_uv "$uv" "$version" && exit

all=${versions[*]}
fail "No CPython ${all// / or } that starts: tried \$$(variable_of "$version") (not set)," \
    "python$version on PATH, $pyenv_versions, \`uv python find $version\` and" \
    "\`$uv python install $version\` (run it to see why it failed); install one, for example with" \
    "\`pyenv install $version\`, or set $(variable_of "$version")=/path/to/python$version."
