# Sets what belongs to the TensorFlow that $TF names, for the scripts that source this file:
#   venv          the folder of the environment
#   pythons       the versions of CPython that this TensorFlow has wheels for, best first
#   requirements  what its locks begin with: $requirements-dev.lock, $requirements-horovod.lock
#   builds        its builds, each with a .txt and a .lock
#   build         the one of them for this machine
# shellcheck shell=bash disable=SC2034

has_driver() {
    [[ -e /proc/driver/nvidia/version ]] || nvidia-smi >/dev/null 2>&1
}

# Without $GPU an environment keeps the build that it has: a cluster's login node, which has no
# driver, must not undo what GPU=1 made there.
wants_gpu() {
    case ${GPU:-} in
        0) return 1 ;;
        1) return 0 ;;
        '') ;;
        *)
            echo "GPU=$GPU is unknown: use GPU=1 for TensorFlow with CUDA, GPU=0 for the one" \
                "without, or unset it to let the NVIDIA driver decide." >&2
            exit 1
            ;;
    esac
    if [[ -s $venv/made-from ]]; then
        ! grep --quiet '^tensorflow-cpu==' "$venv/made-from"
    else
        has_driver
    fi
}

case ${TF:-1.15} in
    1.15)
        venv=.venv
        pythons=(3.7)
        requirements=requirements
        builds=(requirements)
        build=requirements
        ;;
    2.15)
        venv=.venv-tf2.15
        pythons=(3.11 3.10 3.9)
        requirements="requirements-tf2.15"
        builds=("$requirements-cpu" "$requirements-gpu")
        if wants_gpu; then build=$requirements-gpu; else build=$requirements-cpu; fi
        ;;
    *)
        echo "TF=$TF is unknown: use TF=1.15 (the default) or TF=2.15." >&2
        exit 1
        ;;
esac
