"""Make a cohort of a source's patients.

python -m lib import openkbp /data/open-kbp/provided-data --name openkbp
python -m lib import dicom /data/clinic --name clinic --spacing-mm 3 3 3 --prescription-gy PTV70=70 PTV56=56
python -m lib import dicom /data/clinic --look --write-protocol clinic.yaml
python -m lib import dicom /data/clinic --name clinic --protocol clinic.yaml
python -m lib import dicom /data/clinic --name clinic --params clinic-params.yaml
python -m lib import vmat /data/processed_npz --name clinic-npz
python -m lib import phantom
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lib.cases.cohort import FOLDER
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.files import in_project
from lib.importers.cohort import Source, make_cohort
from lib.importers.dicom_rt import dicom_source
from lib.importers.look import look, write_protocol
from lib.importers.openkbp import openkbp_source
from lib.importers.options import IMPORT_KEYS, Options, check_import, open_protocol, parse_prescriptions
from lib.importers.phantom import phantom_source
from lib.importers.vmat_npz import vmat_source
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.params_file import load_params


def make_parser() -> Parser:
    parser = Parser(prog="python -m lib import", description="Make a cohort of case files.")
    add = parser.add_argument
    add("source", choices=["openkbp", "dicom", "vmat", "phantom"])
    add("folder", nargs="?", help="the source's folder of patients (not for phantoms)")
    add("--name", help="name of the cohort; default: the source's")
    add("--workers", type=int, default=2, help="processes that read in parallel")
    add = parser.add_argument_group("dicom").add_argument
    axes = ("DZ", "DY", "DX")
    add("--spacing-mm", type=float, nargs=3, metavar=axes, help="grid of the cases; default: the CT's")
    add("--params", help=f"params file whose section import holds some of {', '.join(IMPORT_KEYS)}")
    text = "for targets to which no plan prescribes a dose"
    add("--prescription-gy", nargs="+", default=[], metavar="PTV70=70", help=text)
    text = "call the patients P001, P002, ... and write who is who to this file"
    add("--pseudonyms", metavar="FILE.csv", help=text)
    add("--site", choices=list(PROTOCOLS), help="default: the one that the structures clearly tell")
    add("--protocol", metavar="FILE.yaml", help="a clinic's own site")
    text = "list what is there and what would be taken for what; no cohort is made"
    add("--look", action="store_true", help=text)
    add("--write-protocol", metavar="FILE.yaml", help="with --look: write a first protocol of it")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `import`; without `arguments` those of the command line."""
    options = make_parser().parse_args(arguments)
    target = in_project(FOLDER / (options.name or options.source))
    with one_sentence_errors():
        if options.look or options.write_protocol:
            return look_first(options)
        cohort = make_cohort(target, choose_source(options, target), options.workers)
    parts = ", ".join(f"{len(ids)} {part}" for part, ids in cohort.split.items())
    cases, left_out = len(cohort.card["cases"]), len(cohort.card["left_out"])
    print(f"{cohort.folder}: {cases} cases ({parts}); {left_out} left out")


def look_first(options: Namespace) -> None:
    """List what is in a folder of DICOM patients, and write a first protocol where that is asked for."""
    if options.source != "dicom" or not options.folder or not options.look:
        raise UserError("--look and --write-protocol go with: python -m lib import dicom FOLDER --look")
    tables = look(options.folder, dicom_options(options))
    if options.write_protocol:
        write_protocol(options.write_protocol, tables)
        print(f"{options.write_protocol} is a first protocol; look it through, then give it to --protocol")


def choose_source(options: Namespace, target: Path) -> Source:
    """The patients that the command line asks for, to become the cohort in `target`."""
    if options.source == "phantom":
        return phantom_source()
    if not options.folder:
        raise UserError(f"{options.source} needs the folder of its patients")
    if options.source == "dicom":
        return dicom_source(options.folder, target, dicom_options(options), options.pseudonyms)
    return {"openkbp": openkbp_source, "vmat": vmat_source}[options.source](options.folder)


def dicom_options(options: Namespace) -> Options:
    """The section `import` of the params file, with the flags put over it."""
    keys = ("spacing_mm", "site", "protocol")
    flags = {key: value for key, value in vars(options).items() if key in keys and value}
    if options.prescription_gy:
        flags["prescription_gy"] = parse_prescriptions(options.prescription_gy)
    path = options.params
    section = check_import(load_params(path).get("import"), path) if path else {}
    if "site" in flags or "protocol" in flags:  # a flag goes before the file, also one before the other
        section = {key: value for key, value in section.items() if key not in ("site", "protocol")}
    values = section | flags
    asked = [values.pop(key, None) for key in ("site", "protocol")]
    return Options(**values, **open_protocol(*asked))
