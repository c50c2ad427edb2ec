"""The one command line: python -m lib <command> ..., also installed as `dose`."""

import importlib
import sys

COMMANDS = {
    "run": ("lib.runner.run", "run an experiment's notebooks and build its report"),
    "train": ("lib.runner.train", "train the methods of a params file without notebooks"),
    "import": ("lib.runner.import_patients", "make a cohort of patients"),
    "export": ("lib.runner.export", "write a prediction as DICOM RTDOSE"),
    "compare": ("lib.runner.compare", "pair two methods, also of two experiments, by patient"),
}


def usage() -> str:
    lines = [f"  {name:<8} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: python -m lib <command> ...", "", *lines, "", "--help after a command explains it"]
    )


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(usage())
    elif arguments[0] not in COMMANDS:
        print(f"error: there is no command {arguments[0]!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    else:
        importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])


if __name__ == "__main__":
    main()
