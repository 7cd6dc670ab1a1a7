"""Write files atomically; read and check files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import tempfile
from typing import Any, Iterator

from bert_classifier.errors import BadInput, one_line

# The special characters of TensorFlow's file patterns.
_PATTERN_CHARACTERS = re.compile(r"[\\\[\]*?]")


def user_path(path: str) -> str:
    """Expand `~` and `~user`, which a shell leaves alone in `--flag=~/x`.

    Raises:
        BadInput: there is no such user, or the path is not UTF-8, which TensorFlow requires.
    """
    try:
        expanded = os.path.expanduser(path)
    except KeyError:
        expanded = path  # HOME is not set, and the system's list of users has no entry.
    if expanded.startswith("~"):
        name = expanded.split("/")[0]
        raise BadInput("%s: no user has this home; write ./%s for a folder" % (path, name))
    try:
        expanded.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("%a: is not UTF-8; rename it" % expanded) from error
    return expanded


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Yield a temporary path to write to, and rename it to `path` when the block has succeeded.

    The temporary file is in the same folder, because a rename is atomic only within a file system.
    Its name has the process number, so that two runs do not write to the same file. Even after a
    power failure, `path` has either the old content or the new one.
    """
    temporary = "%s.tmp-%d" % (path, os.getpid())
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
        # Some network file systems refuse this for a folder; the file itself is on disk.
        with contextlib.suppress(OSError):
            flush_to_disk(os.path.dirname(os.path.abspath(path)))
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def check_can_be_written(flag: str, folder: str) -> None:
    """Check that files can be written to a folder, which may not exist yet; leave nothing there.

    Raises:
        BadInput: they cannot; the message names the flag.
    """
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise BadInput(
            "--%s=%s: %s; give a folder that can be written to" % (flag, folder, error.strerror)
        ) from error


def check_output(flag: str, path: str) -> None:
    """Check before the work that its result can be written to a file that a user has named.

    Raises:
        BadInput: it cannot; the message names the flag.
    """
    if not path:
        raise BadInput("--%s=: give the name of a file" % flag)
    if os.path.isdir(path):
        raise BadInput("--%s=%s: is a folder; give the name of a file" % (flag, path))
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise BadInput("--%s=%s: there is no such folder; make it first" % (flag, path))
    if not _is_stream(path):
        check_can_be_written(flag, folder)


@contextlib.contextmanager
def output(path: str) -> Iterator[str]:
    """Yield what to write the content of `path` to; the file has it when the block has succeeded.

    See `atomic`. A link stays, and the file that it names is replaced. A device or a pipe is
    written to directly: a rename would put a file in its place.
    """
    if _is_stream(path):
        yield path
        return
    with atomic(os.path.realpath(path)) as temporary:
        yield temporary


def _is_stream(path: str) -> bool:
    """Tell whether a path is a device, a pipe, or a name of an open file such as /dev/stdout."""
    is_name = os.path.abspath(path).startswith(("/dev/", "/proc/"))
    return os.path.exists(path) and (is_name or not os.path.isfile(path))


def flush_to_disk(path: str) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON; NaN and infinity, which JSON does not have, become strings."""
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def without_nan(value: Any) -> Any:
    """Return `value` with strings in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return value


def write_json(path: str, value: Any) -> None:
    """Write `value` to `path` as JSON of several lines, atomically; see `to_json`."""
    write_text(path, to_json(value, indent=2) + "\n")


@contextlib.contextmanager
def damage_told(path: str, cure: str) -> Iterator[None]:
    """Turn errors in reading the content of `path` into BadInput, which names file and cure.

    A power failure or a full disk may leave a file empty, truncated or full of zero bytes. JSON
    that is nested too deeply is a RecursionError.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput("%s: is damaged (%.200s); %s" % (path, one_line(error), cure)) from error


def read_json(path: str, cure: str) -> dict[str, Any]:
    """Read the JSON object in `path`.

    Raises:
        BadInput: it is damaged; the message ends with `cure`.
    """
    with damage_told(path, cure), open(path, encoding="utf-8") as stream:
        value = json.load(stream)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value


def digest(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: str) -> str:
    """Return the `digest` of a file, which is read in chunks."""
    sum_so_far = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            sum_so_far.update(chunk)
    return sum_so_far.hexdigest()


def check_rereadable(path: str) -> None:
    """Check that a file can be read more than once, without opening it: a pipe could block.

    Raises:
        BadInput: `path` is a pipe or a device. Other faults are found when it is opened.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "device"
        raise BadInput(f"{path}: is a {kind} and can be read only once; write it to a file first")


@contextlib.contextmanager
def plain_path(path: str) -> Iterator[str]:
    """Yield a path to the same file or folder that has no special characters of patterns.

    TensorFlow takes the path of a checkpoint for a pattern: in `lr=[5e-5]/model` the brackets would
    stand for one of the characters between them. The path that is yielded goes through a symbolic
    link, which exists during the block.

    Args:
        path: of a file or folder that exists, or a prefix of file names, such as a checkpoint.
    """
    if not _PATTERN_CHARACTERS.search(path):
        yield path
        return
    parent, name = os.path.split(os.path.abspath(path))
    plain_name = _PATTERN_CHARACTERS.sub("_", name)
    with tempfile.TemporaryDirectory() as folder:
        if plain_name == name:
            os.symlink(parent, os.path.join(folder, "parent"))
            yield os.path.join(folder, "parent", name)
            return
        for found in os.listdir(parent):
            if found.startswith(name):
                link = os.path.join(folder, plain_name + found[len(name) :])
                os.symlink(os.path.join(parent, found), link)
        yield os.path.join(folder, plain_name)
