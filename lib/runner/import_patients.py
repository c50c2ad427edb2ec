"""Make a cohort of a source's patients.

python -m lib import openkbp /data/open-kbp/provided-data --name openkbp
python -m lib import dicom /data/clinic --name clinic --spacing-mm 3 3 3 --prescription-gy PTV70=70 PTV56=56
python -m lib import dicom /data/clinic --name clinic --params clinic.yaml
python -m lib import vmat /data/processed_npz --name clinic-npz
python -m lib import phantom
"""

from lib.cases.cohort import FOLDER
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.importers.cohort import (
    given_prescriptions,
    make_dicom,
    make_openkbp,
    make_phantoms,
    make_vmat,
    read_import,
)
from lib.runner.command import Parser, one_sentence_errors


def main(arguments=None):
    parser = Parser(prog="python -m lib import", description="Make a cohort of case files.")
    parser.add_argument("source", choices=["openkbp", "dicom", "vmat", "phantom"])
    parser.add_argument("folder", nargs="?", help="the source's folder of patients (not for phantoms)")
    parser.add_argument("--name", help="name of the cohort; default: the source's")
    parser.add_argument("--workers", type=int, default=2, help="processes that read in parallel")
    parser.add_argument(
        "--spacing-mm",
        type=float,
        nargs=3,
        metavar=("DZ", "DY", "DX"),
        help="dicom: grid of the cases; default: the CT's",
    )
    parser.add_argument(
        "--params",
        help="dicom: params file whose section import holds spacing_mm, aliases, prescription_gy, site",
    )
    parser.add_argument(
        "--prescription-gy",
        nargs="+",
        default=[],
        metavar="PTV70=70",
        help="dicom: for targets to which no plan prescribes a dose",
    )
    parser.add_argument(
        "--pseudonyms",
        metavar="FILE.csv",
        help="dicom: call the patients P001, P002, ... and write who is who to this file",
    )
    parser.add_argument(
        "--site", choices=list(PROTOCOLS), help="dicom: default: the one whose organs are found"
    )
    options = parser.parse_args(arguments)
    with one_sentence_errors():
        cohort = make_named(options, FOLDER / (options.name or options.source))
    parts = ", ".join(f"{len(ids)} {part}" for part, ids in cohort.split.items())
    print(
        f"{cohort.folder}: {len(cohort.card['cases'])} cases ({parts}); "
        f"{len(cohort.card['left_out'])} left out"
    )


def make_named(options, target):
    """The cohort that the command line asks for."""
    if options.source == "phantom":
        return make_phantoms(target, options.workers)
    if not options.folder:
        raise UserError(f"{options.source} needs the folder of its patients")
    if options.source in ("openkbp", "vmat"):
        make = make_openkbp if options.source == "openkbp" else make_vmat
        return make(options.folder, target, options.workers)
    given = {
        "spacing_mm": options.spacing_mm,
        "site": options.site,
        "pseudonyms": options.pseudonyms,
        "prescription_gy": given_prescriptions(options.prescription_gy),
    }
    stored = read_import(options.params) if options.params else {}
    return make_dicom(
        options.folder,
        target,
        options.workers,
        **stored | {key: value for key, value in given.items() if value},
    )
