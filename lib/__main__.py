"""The one command line: python -m lib <command> ..., also installed as `dose`."""

import importlib
import sys

from lib.errors import closest
from lib.runner.command import stop

COMMANDS = {
    "run": ("lib.runner.run", "run an experiment's notebooks and build its report"),
    "train": ("lib.runner.train", "train the methods of a params file without notebooks"),
    "import": ("lib.runner.import_patients", "make a cohort of patients"),
    "check": ("lib.runner.check", "check a plan against what such anatomies reach"),
    "export": ("lib.runner.export", "write a prediction for other programs: images or DICOM RTDOSE"),
    "compare": ("lib.runner.compare", "pair two methods, also of two experiments, by patient"),
}


def usage() -> str:
    lines = [f"  {name:<8} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    end = "python -m lib <command> --help explains a command"
    return "\n".join(["usage: python -m lib <command> ...", "", *lines, "", end])


def main(arguments: list[str] | None = None) -> None:
    """Call the command's own `main`; only its module is imported, so that --help is quick."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        importlib.import_module(COMMANDS[name][0]).main(rest)
    else:
        stop(f"error: there is no command {name!r}{closest(name, COMMANDS)}", 2)


if __name__ == "__main__":
    main()
