"""How a command ends: in one sentence, not a traceback, when a person or the machine did wrong."""

import argparse
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lib.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
NOT_OURS = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class Failure(Exception):
    """What was begun failed; the message says why and where to look."""


class Parser(argparse.ArgumentParser):
    """The arguments of one command; a mistake in them is one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        stop(f"error: {message}; {self.prog} --help explains it", 2)

    def add_params(self) -> None:
        """The params file, and values over the file's."""
        self.add_argument("params", help="a params file, such as params/phantom-quick.yaml")
        text = "put a value over the file's; may be given several times"
        self.add_argument("-p", action="append", default=[], metavar="section.key=value", help=text)


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Run the block; end with exit code 2 after a person's mistake, 1 after a failure or where the disk
    refused (full, not writable), 130 when stopped by Ctrl-C. Any other error of the system is a fault of ours
    and keeps its traceback."""
    try:
        yield
    except UserError as error:
        stop(f"error: {error}", 2)
    except Failure as error:
        stop(f"error: {error}", 1)
    except OSError as error:
        if error.errno not in DISK_FULL | NOT_OURS:
            raise
        stop(f"error: {error.filename or 'the disk'}: {error.strerror}", 1)
    except KeyboardInterrupt:
        stop("stopped; run the same command again", 130)


def stop(text: str, code: int) -> NoReturn:
    """Print the text to the error stream and end with the exit code."""
    print(text, file=sys.stderr)
    sys.exit(code)
