#!/usr/bin/env bash
# Says in one line that the GPU of this machine needs TF=2.15, if it does and $TF is another. The
# argument is the target that the user has asked for.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

# The compute capability of Ampere, the first GPUs that CUDA 10.0 does not know.
readonly too_new=8

if [[ $venv != .venv ]]; then
    exit
fi
# An old driver, which does not know this query, does not drive such a GPU either.
capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null) || exit 0
newest=$(sort --version-sort <<<"$capabilities" | tail --lines=1)
if [[ $newest =~ ^([0-9]+)\.[0-9]+$ ]] && ((BASH_REMATCH[1] >= too_new)); then
    echo "The GPU of this machine (compute capability $newest) needs TensorFlow 2.15: type" \
        "\`make $1 TF=2.15\`. TensorFlow 1.15 computes on the CPU here."
fi
