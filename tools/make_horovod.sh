#!/usr/bin/env bash
# Adds Horovod to the environment of make_venv.sh, built from source against the TensorFlow there:
# for NCCL where CUDA and NCCL are found, otherwise for Gloo. HOROVOD_ variables that are set, even
# to nothing, win. Does nothing when that is already so.
#
# horovod-made-from in the environment is there only when all is done, so a run that was killed is
# never taken for a finished one. The wheel is kept in .cache/horovod for an environment that is
# made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

readonly python=$venv/bin/python
readonly made_from=$venv/horovod-made-from
readonly lock=$requirements-horovod.lock
readonly building=.cache/horovod/building
readonly log=.cache/horovod/build.log

set_default() {
    [[ -v $1 ]] || export "$1=$2"
}

set_default HOROVOD_WITH_TENSORFLOW 1
set_default HOROVOD_WITH_GLOO 1
for unused in MPI PYTORCH MXNET; do
    # Not where it is asked for: to Horovod, WITHOUT is stronger than WITH.
    [[ -v HOROVOD_WITH_$unused ]] || set_default "HOROVOD_WITHOUT_$unused" 1
done

# Horovod's build searches PATH for CUDA.
PATH=${HOROVOD_CUDA_HOME:+$HOROVOD_CUDA_HOME/bin:}${CUDA_HOME:+$CUDA_HOME/bin:}$PATH
PATH=$PATH:/usr/local/cuda/bin

has_nccl() {
    local folder
    for folder in "${HOROVOD_NCCL_INCLUDE:-}" "${HOROVOD_NCCL_HOME:-}/include" \
        "${nvcc%/bin/nvcc}/include" /usr/local/cuda/include /usr/include; do
        if [[ -e $folder/nccl.h ]]; then
            return
        fi
    done
    return 1
}

advice=
if [[ -z ${!HOROVOD_GPU*} ]] && nvcc=$(type -P nvcc); then
    if has_nccl; then
        export HOROVOD_GPU_OPERATIONS=NCCL
        advice="To build without NCCL: export HOROVOD_GPU_OPERATIONS="
    else
        advice="There is CUDA ($nvcc) but no nccl.h, so GPUs will exchange gradients through Gloo,"
        advice+=" which is slow: install libnccl-dev, or set HOROVOD_NCCL_HOME."
    fi
fi
readonly operations=${HOROVOD_GPU_OPERATIONS:-Gloo}

# What the wheel depends on, so without the HOROVOD_ variables that only matter at run time.
site_packages=$(echo "$venv"/lib/python3.*/site-packages)
settings=$(
    grep --no-filename --only-matching --extended-regexp '^(horovod|tensorflow.*)==[^ ]+' \
        requirements-horovod.txt "$build.lock"
    # TensorFlow 1.15 has one Python only.
    ((${#pythons[@]} == 1)) || echo "${site_packages#*/lib/}"
    env | LC_ALL=C sort | grep --extended-regexp \
        '^HOROVOD_(ALLOW|BUILD|CPU|CUDA|DEBUG|GPU|NCCL|NVTX|ROCM|WITH)[A-Z_]*=.'
)
version=${settings%%$'\n'*}
version=${version#horovod==}
kept=.cache/horovod/$operations-$(sha256sum <<<"$settings" | head --bytes=16)
readonly site_packages settings version kept

what_is_wanted() {
    cat - "$lock" <<<"$settings"
}

is_finished() {
    [[ -e $site_packages/horovod-$version.dist-info ]] &&
        what_is_wanted | cmp --silent - "$made_from"
}

# Prints the user's compiler, or the first g++ that takes Horovod's source: 14 and later refuse it.
find_compiler() {
    local candidate found
    if [[ -n ${CXX:-} ]]; then
        "${CXX%% *}" --version >/dev/null 2>&1 && echo "$CXX"
        return
    fi
    for candidate in g++ g++-13 g++-12 g++-11; do
        found=$("$candidate" -dumpversion 2>/dev/null) && ((${found%%.*} < 14)) &&
            echo "$candidate" && return
    done
    return 1
}

# Two makes at once take turns, with make_venv.sh too. What a killed build has left running holds
# the lock until it ends.
exec 9<tools/make_venv.sh
if ! flock --nonblock 9; then
    echo "Waiting for another make that works on an environment"
    flock 9
fi

if is_finished; then
    exit
fi
if [[ ! -e $kept ]] && ! CXX=$(find_compiler); then
    echo "Horovod needs a C++ compiler: install g++, in a version up to 13 (\`apt-get install g++\`" \
        "or g++-13, \`dnf install gcc-c++\`), or set CXX to a compiler that starts." >&2
    exit 1
fi

uv_install() {
    "$uv" pip install --python "$python" --reinstall --no-deps "$@"
}

install_kept_wheel() {
    uv_install "$kept"/*.whl && "$python" -c 'import horovod.tensorflow'
}

build_wheel() {
    rm -rf "$building" "$kept"
    mkdir -p "$building/tmp"
    # The last CMake before 4, which refuses the Gloo that Horovod brings.
    uv_install --target "$building/cmake" --require-hashes --requirements - <<<"cmake==3.31.10 \
        --hash=sha256:2f766bb46367e5e0559fa33184653754bce044583a06014dcaebf8e6dff8a1f1"
    set_default HOROVOD_CMAKE "$PWD/$building/cmake/cmake/data/bin/cmake"
    # A header that Horovod forgot to include, and that only g++ before 13 brings in by itself.
    CXXFLAGS="-include stdexcept ${CXXFLAGS:-}"
    MAKEFLAGS=-j$(nproc)
    TMPDIR=$PWD/$building/tmp
    export CXX CXXFLAGS MAKEFLAGS TMPDIR
    # Without pip's cache, which does not know the settings.
    "$python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes \
        --requirement requirements-horovod.txt --wheel-dir "$building/wheel"
    mv "$building/wheel" "$kept"
}

clean_up() {
    local status=$?
    if ((status != 0)); then
        grep --max-count=5 --extended-regexp ' error: |CMake Error' "$log" || true
        tail --lines=5 "$log"
        echo "Horovod was not built; the lines above are from $log."
    fi >&4
    rm -rf "$building"
}

uv=$(tools/find_uv.sh)
mkdir -p .cache/horovod
# From here on the terminal gets the few lines that are sent to 3 and 4, and the log all others.
exec 3>&1 4>&2 >"$log" 2>&1
trap clean_up EXIT

rm -f "$made_from"
uv_install --require-hashes --requirements "$lock"
if [[ -e $kept ]]; then
    echo "Adding the Horovod $version with $operations that was built before" >&3
fi
if ! { [[ -e $kept ]] && install_kept_wheel; }; then
    echo "Building Horovod $version with $operations (about two minutes)" >&3
    if [[ -n $advice ]]; then
        echo "$advice" >&3
    fi
    build_wheel
    install_kept_wheel
fi
what_is_wanted >"$made_from"
