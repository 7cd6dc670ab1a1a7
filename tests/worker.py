"""A worker that horovodrun starts in tests: it does jobs in turn, and tells how each of them ended.

Its argument is the folder of a `program.Launch`. A launch takes longer than many a job, because
each worker has to import TensorFlow.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import absl.flags

FOLDER = pathlib.Path(sys.argv[1])
INDEX = os.environ["HOROVOD_RANK"]


def settle_down():
    """Makes a folder of its own for all that is written with no word about where to."""
    unfinished = FOLDER / ("unfinished_pid_" + INDEX)
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(FOLDER / ("pid_" + INDEX))
    home = FOLDER / ("home_" + INDEX)
    home.mkdir()
    os.environ["HOME"] = os.environ["TMPDIR"] = str(home)
    sys.path.insert(0, os.getcwd())
    os.chdir(str(home))


def do(program, arguments):
    """Does what the command line says; returns the exit status."""
    for name in absl.flags.FLAGS:
        absl.flags.FLAGS[name].unparse()
    sys.argv = ["run_classifier_gpu.py", *arguments]
    program.tf.reset_default_graph()
    try:
        return program.main(program.parse_flags(sys.argv))
    except SystemExit as end:
        return end.code


def main():
    settle_down()
    from disturbance import disturb, program  # noqa: PLC0415

    from bert_classifier import hook_builders  # noqa: PLC0415

    with open(str(FOLDER / "launch.json")) as stream:
        launch = json.load(stream)
    for disturbance in launch["disturbances"].get(INDEX, []):
        disturb(*disturbance)

    # The program does not tell what a worker other than the chief has done.
    make_progress_hook = hook_builders.ProgressHook
    progress = []

    def observed(*arguments, **options):
        progress.append(make_progress_hook(*arguments, **options))
        return progress[-1]

    hook_builders.ProgressHook = observed
    program.flags.define()
    for name, arguments, own_arguments in launch["jobs"]:
        print("JOB", name, file=sys.stderr, flush=True)
        status = do(program, arguments + own_arguments.get(INDEX, []))
        end = {"status": status, "steps": [hook.step for hook in progress]}
        (FOLDER / ("%s.%s.json" % (name, INDEX))).write_text(json.dumps(end))
        del progress[:]
    return status


if __name__ == "__main__":
    sys.exit(main())
