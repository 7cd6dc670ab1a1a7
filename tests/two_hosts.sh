#!/usr/bin/env bash
# Trains on two hosts that share no output_dir, and no network but a cable between them: network
# namespaces of this machine, each with a name and an address. Horovod starts the second over ssh.
#
# Takes the Python in $PYTHON, by default that of .venv. Ends with 77 where it cannot run.
#
# Nothing is left behind, whatever happens: all processes are in one PID namespace, which ends with
# this one, and all that they make is in namespaces and in memory, which end with the last of them.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:/usr/sbin:/sbin
export TF_CPP_MIN_LOG_LEVEL=3 PYTHONWARNINGS=ignore
readonly script=tests/two_hosts.sh
readonly python=${PYTHON:-.venv/bin/python}
readonly horovodrun=${python%/*}/horovodrun
readonly folder=/run/two_hosts
# What only the first host has: the weights to begin with, and the output_dir.
readonly of_first=$folder/of_first
readonly output_dir=$of_first/output

main() {
    local program
    for program in hostname ip ssh sshd ssh-keygen "$python" "$horovodrun"; do
        [[ -n $(type -P "$program") ]] || refuse "$program"
    done
    unshare --net true 2>/dev/null || refuse "root, with the right to make namespaces"
    setpriv --pdeathsig KILL unshare --mount --net --uts --pid --fork --kill-child --mount-proc \
        "$script" first_host &
    wait $! # a signal ends this, where it would wait for a command in the foreground
}

refuse() {
    echo "$script needs $1." >&2
    exit 77
}

first_host() {
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p "$of_first"
    connect_hosts
    start_sshd
    make_data
    make_model

    train
    expect "$folder/log" "worker 0 on first .* 10\.77\.0\.1"
    expect "$folder/log" "worker 1 on second .* 10\.77\.0\.2"
    expect "$folder/sshd.log" "Accepted publickey .* from 10\.77\.0\.1"
    expect "$folder/log" "Early stopping at step 15"
    expect "$folder/log" "Exported .*/model\.ckpt-5 to"
    ls "$output_dir"/export/best_exporter/*/saved_model.pb || fail "there is no export"
    check_traffic
    check_second_host_has_nothing

    train
    expect "$folder/log" "Nothing left to train"
}

connect_hosts() {
    ip netns attach first $$
    ip netns add second
    ip -netns first link add eth0 type veth peer name eth0 netns second
    ip -netns first address add 10.77.0.1/24 dev eth0
    ip -netns second address add 10.77.0.2/24 dev eth0
    local host
    for host in first second; do
        ip -netns "$host" link set lo up
        ip -netns "$host" link set eth0 up
    done
    hostname first
    # Gloo listens at the address that the host's own name stands for.
    printf '%s\n' "127.0.0.1 localhost" "10.77.0.1 first" "10.77.0.2 second" >"$folder/hosts"
    mount --bind "$folder/hosts" /etc/hosts
}

start_sshd() {
    mkdir /run/sshd # Debian's sshd wants it
    ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$folder/client_key"
    # Without PAM it would refuse a root who has no password.
    cat >"$folder/sshd_config" <<END
Port 2222
HostKey $folder/host_key
AuthorizedKeysFile $folder/client_key.pub
UsePAM yes
PidFile none
END
    # Horovod calls the first ssh in PATH: one that does not look into ~/.ssh.
    mkdir "$folder/bin"
    cat >"$folder/bin/ssh" <<END
#!/bin/sh
exec $(type -P ssh) -F none -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "\$@"
END
    chmod +x "$folder/bin/ssh"
    PATH=$folder/bin:$PATH
    ip netns exec second unshare --uts "$script" second_host &
    sshd=$!
}

second_host() {
    hostname second
    # `ip netns exec` has made a mount namespace too, so this hides the folder from the second only.
    mount -t tmpfs tmpfs "$of_first"
    exec "$(type -P sshd)" -D -f "$folder/sshd_config" -E "$folder/sshd.log"
}

# Two of seven labels, and in the dev set only the first: the recall of the second stays 0, so the
# first evaluation, at step 5, stays the best, and training stops early.
make_data() {
    grep -P '^(label|order_status|return_refund)\t' examples/data/train.tsv >"$folder/train.tsv"
    grep -P '^(label|order_status)\t' examples/data/dev.tsv >"$folder/dev.tsv"
}

make_model() {
    "$python" examples/make_vocab.py "$folder/train.tsv" "$folder/vocab.txt"
    cat >"$folder/bert_config.json" <<'END'
{
    "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 128, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 32, "type_vocab_size": 2,
    "initializer_range": 0.02
}
END
    "$python" - "$folder/bert_config.json" "$of_first/bert_model.ckpt" <<'END'
import sys
import tensorflow.compat.v1 as tf
import modeling

config = modeling.BertConfig.from_json_file(sys.argv[1])
modeling.BertModel(config, False, tf.zeros([1, 4], tf.int32))
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, sys.argv[2], write_meta_graph=False)
END
}

train() {
    "$horovodrun" -np 2 -H first:1,second:1 --network-interfaces eth0 --disable-cache \
        --ssh-port 2222 --ssh-identity-file "$folder/client_key" "$script" worker \
        "$python" run_classifier_gpu.py --horovod --do_train --task_name=file \
        --train_file="$folder/train.tsv" --dev_file="$folder/dev.tsv" \
        --bert_config_file="$folder/bert_config.json" --vocab_file="$folder/vocab.txt" \
        --init_checkpoint="$of_first/bert_model.ckpt" --output_dir="$output_dir" \
        --max_seq_length=32 --train_batch_size=8 --num_train_epochs=4 --learning_rate=1e-3 \
        --save_checkpoints_steps=5 --best_metric=eval_recall --max_steps_without_improvement=10 \
        &>"$folder/log" || fail "the job ended with status $?"
}

worker() {
    echo "worker $HOROVOD_RANK on $(hostname)" "$(ip -4 -brief address show eth0)"
    # Each would take the first GPU, which is the same.
    export CUDA_VISIBLE_DEVICES=
    exec "$@"
}

check_traffic() {
    local received sent weights
    read -r received sent < <(ip -stats link show eth0 |
        awk '/RX:/ {getline; rx = $1} /TX:/ {getline; print rx, $1}')
    weights=$(cat "$output_dir"/best/slim/*.data-* | wc -c)
    echo "over the cable: $sent bytes sent, $received received; the weights have $weights"
    # Gradients are as large as weights, and each of two workers sends all of them in each step.
    ((sent > 15 * weights && received > 15 * weights)) || fail "gradients went another way"
}

check_second_host_has_nothing() {
    local found
    found=$(nsenter --target "$sshd" --mount ls -A "$of_first")
    [[ -z $found ]] || fail "the second host has $found"
    echo "the second host has no file in $of_first"
}

expect() {
    grep --max-count=1 "$2" "$1" || fail "no line has: $2"
}

fail() {
    cat "$folder"/*log
    echo "FAILED: $1"
    exit 1
} >&2

case ${1:-} in
    first_host | second_host | worker) "$@" ;;
    *) main ;;
esac
