#!/usr/bin/env bash
# Writes the locks of the environment that $TF names from the requirements .txt files: one for each
# build of TensorFlow, one for the checks, one for Horovod. Pins that still fit are kept: delete a
# lock first to get the newest of everything.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

uv=$(tools/find_uv.sh)
python=$(tools/find_python.sh "${pythons[@]}")
oldest_python=${pythons[-1]}
readonly uv python oldest_python

command="make lock"
if [[ $venv != .venv ]]; then
    command+=" TF=$TF"
fi

# One lock serves all Pythons of an environment: what the oldest needs, the others take. The
# platform is named so that every machine writes the same locks.
compile() {
    "$uv" pip compile --quiet --python "$python" --python-version "$oldest_python" \
        --python-platform x86_64-manylinux2014 --generate-hashes \
        --override "$requirements-overrides.txt" \
        --custom-compile-command "$command" "$@"
}

# Each lock is held to the pins of those before it, because they go into one environment.
constraints=()
for name in "${builds[@]}"; do
    compile "$name.txt" "${constraints[@]}" --output-file "$name.lock"
    constraints=(--constraints "${builds[0]}.lock")
done
compile requirements-dev.txt "${constraints[@]}" --output-file "$requirements-dev.lock"
# Without Horovod itself, which make_horovod.sh builds. Its setup.py adds what the frameworks need
# that are not ruled out.
HOROVOD_WITHOUT_PYTORCH=1 compile requirements-horovod.txt --no-emit-package horovod \
    "${constraints[@]}" --constraints "$requirements-dev.lock" \
    --output-file "$requirements-horovod.lock"
