from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import files


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(str(path)) as temporary:
        with open(temporary, "w") as stream:
            stream.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(str(tmp_path)) == ["a.txt"]


def test_text_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(str(path), "first")
    files.write_text(str(path), "zweites \u00e4\n")
    assert path.read_bytes() == "zweites \u00e4\n".encode()


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    script = (
        "import os, signal; from bert_classifier import files\n"
        "with files.atomic(%r) as temporary, open(temporary, 'w') as stream:\n"
        "    stream.write('half')\n"
        "    stream.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n" % str(path)
    )
    root = os.path.dirname(os.path.dirname(files.__file__))
    killed = subprocess.run([sys.executable, "-c", script], cwd=root)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("folder", ["plain", "lr=[5e-5]", "back\\slash", "any*thing?"])
@pytest.mark.parametrize("name", ["model.ckpt-3", "model[1].ckpt-3"])
def test_tensorflow_finds_what_a_plain_path_names(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    path = str(tmp_path / folder / name)
    with tf.Session() as session:
        variable = tf.get_variable("x", initializer=7.0)
        session.run(variable.initializer)
        tf.train.Saver().save(session, path, write_state=False)
    with files.plain_path(path) as plain:
        np.testing.assert_equal(tf.train.load_checkpoint(plain).get_tensor("x"), 7.0)
    with files.plain_path(str(tmp_path / folder)) as plain:
        assert sorted(tf.gfile.Glob(plain + "/*")) == [
            plain + "/" + found for found in sorted(os.listdir(str(tmp_path / folder)))
        ]
    if folder == "plain":
        assert plain == str(tmp_path / folder)
    else:
        assert not os.path.exists(plain)
