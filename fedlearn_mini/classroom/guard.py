"""A student's code may do what it likes: the kernel lives on, and what happened is said in words."""

import sys
from contextlib import contextmanager

ANYTHING = (Exception, SystemExit, KeyboardInterrupt)  # exit() and the stop button are no Exceptions


@contextmanager
def no_exit():
    """Inside, exit() raises SystemExit; in a notebook it would end the kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        yield
        return

    def ask_exit():
        raise SystemExit("exit() was called")

    shell.ask_exit = ask_exit  # an attribute of this shell, in front of its method
    try:
        yield
    finally:
        del shell.ask_exit


def words(error):
    """What an exception says, on one line; some raise another one when they are asked."""
    try:
        said = " ".join(str(error).split())
    except Exception:
        said = "it has no text"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
