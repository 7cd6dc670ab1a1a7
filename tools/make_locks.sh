#!/usr/bin/env bash
# Writes requirements.lock, requirements-dev.lock and requirements-horovod.lock from the .txt files
# beside them. Pins that still fit are kept: delete a lock first to get the newest of everything.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(tools/find_uv.sh)
python=$(tools/find_python37.sh)

# The platform is named so that every machine writes the same locks.
compile() {
    "$uv" pip compile --quiet --python "$python" --python-version 3.7 \
        --python-platform x86_64-manylinux2014 --generate-hashes \
        --custom-compile-command "make lock" "$@"
}

compile requirements.txt --output-file requirements.lock
# Held to the runtime's pins, because both go into one .venv.
compile requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock
# Without Horovod itself, which make_horovod.sh builds. Its setup.py adds what the frameworks need
# that are not ruled out.
HOROVOD_WITHOUT_PYTORCH=1 compile requirements-horovod.txt --no-emit-package horovod \
    --constraints requirements.lock --constraints requirements-dev.lock \
    --output-file requirements-horovod.lock
