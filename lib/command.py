"""How a command ends: with one sentence, not a traceback, when a person or the machine did something wrong."""
import sys
from contextlib import contextmanager

from lib.errors import UserError


class Failed(Exception):
    """What was begun failed; the message says why and where to look."""


@contextmanager
def told_in_a_sentence():
    """Run the block; end with exit code 2 after a person's mistake, 1 after a failure or where the machine refused
    (disk full or not writable), 130 when stopped by Ctrl-C."""
    try:
        yield
    except UserError as error:
        stop(f"error: {error}", 2)
    except Failed as error:
        stop(f"error: {error}", 1)
    except OSError as error:
        stop(f"error: {error.filename or 'the disk'}: {error.strerror or error}; what was finished is kept, the same command goes on from here", 1)
    except KeyboardInterrupt:
        stop("stopped; the same command goes on from here", 130)


def stop(text, code):
    print(text, file=sys.stderr)
    sys.exit(code)
