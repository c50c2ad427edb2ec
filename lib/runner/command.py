"""How a command ends: in one sentence, not a traceback, when a person or the machine did wrong."""

import errno
import sys
from contextlib import contextmanager

from lib.errors import UserError

REFUSED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
}  # by a disk


class Failed(Exception):
    """What was begun failed; the message says why and where to look."""


@contextmanager
def told_in_a_sentence():
    """Run the block; end with exit code 2 after a person's mistake, 1 after a failure or where the disk
    refused (full, not writable), 130 when stopped by Ctrl-C. Any other error of the system is a fault of ours
    and keeps its traceback."""
    try:
        yield
    except UserError as error:
        stop(f"error: {error}", 2)
    except Failed as error:
        stop(f"error: {error}", 1)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        stop(f"error: {error.filename or 'the disk'}: {error.strerror}", 1)
    except KeyboardInterrupt:
        stop("stopped; run the same command again", 130)


def stop(text, code):
    print(text, file=sys.stderr)
    sys.exit(code)
