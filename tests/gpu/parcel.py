"""What goes to a machine with a GPU and no network, beside this checkout: patients and packages.

    python tests/gpu/parcel.py parcel --patients SMALL --unpack PROGRAM [--first 6] [--has packages.txt]

SMALL is a folder of compact patients, PROGRAM the script (numpy only) that writes them as OpenKBP's folders:
python PROGRAM unpack SMALL DESTINATION. `--has` names a file that lists the packages which are there already.
`parcel` is then a folder to carry along; tests/gpu/run.sh does the rest there. Ends with exit code 1 if the
checkout's tracked files and the parcel are together more than fits.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_MIB = 64
ASIDE = "outputs/published/openkbp"  # what begins so can lie elsewhere while the machine works
GLIBC = ("2_28", "2_27", "2_26", "2_17", "2_12")  # manylinux tags that its system can take
APART = {"torch", "jupyterlab"}  # the machine has its own PyTorch, and no person
# what a kernel without a person does without: debugger, completion, the browser's side of widgets, time zones
UNNEEDED = ("debugpy", "jedi", "parso", "widgetsnbextension", "jupyterlab-widgets", "tzdata")


def plain(name: str) -> str:
    """A package's name as indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(there: set[str]) -> list[str]:
    """What the project needs, as pyproject.toml names it, beside what is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for line in project["dependencies"]]
    return [name for name in [*names, "ipykernel", "filelock"] if plain(name) not in APART | there]


def download(folder: Path, python: str, there: set[str]) -> None:
    """Wheels of what is needed and its needs, in the versions of requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pins = folder / "pins.txt"
    pins.write_text("\n".join(line for line in lock if "==" in line and not line.startswith("torch=")))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, "--implementation", "cp", "-c", str(pins)]
    command += [part for tag in GLIBC for part in ("--platform", f"manylinux_{tag}_x86_64")]
    command += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    subprocess.run([*command, *needed(there)], check=True)
    pins.unlink()


def drop(folder: Path, names: set[str]) -> None:
    """Remove the wheels of these packages."""
    for wheel in folder.glob("*.whl"):
        if plain(wheel.name.split("-")[0]) in names:
            wheel.unlink()


def copy_patients(source: Path, target: Path, first: int | None) -> int:
    """The compact patients, or the first so many of each part; returns how many."""
    count = 0
    for part in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(part.glob("pt_*"), key=lambda path: int(re.findall(r"\d+", path.name)[0]))[:first]
        (target / part.name).mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, target / part.name / file.name)
        count += len(files)
    return count


def size_mib(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def tracked() -> list[Path]:
    """The files of the checkout that travel: tracked, or neither tracked nor ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in filter(None, names)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, help="the folder that is made anew")
    parser.add_argument("--patients", type=Path, required=True)
    parser.add_argument("--unpack", type=Path, required=True)
    parser.add_argument("--first", type=int, help="only the first so many patients of each part")
    parser.add_argument("--has", type=Path, help="a file of names of packages, divided by anything but -_.")
    parser.add_argument("--python", default="3.12", help="its version there")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels instead of downloading them")
    options = parser.parse_args()
    target, there = options.target, set(map(plain, UNNEEDED))
    if target.exists():
        shutil.rmtree(target)
    if options.has:
        there |= set(map(plain, re.findall(r"[A-Za-z0-9][\w.-]*", options.has.read_text())))
    wheels = target / "wheels"
    if options.wheels:
        shutil.copytree(options.wheels, wheels)
    else:
        wheels.mkdir(parents=True)
        download(wheels, options.python, there)
    drop(wheels, there)
    count = copy_patients(options.patients, target / "patients", options.first)
    shutil.copyfile(options.unpack, target / "unpack.py")
    sizes = {"checkout": size_mib(tracked())}
    sizes |= {name: size_mib(list((target / name).rglob("*"))) for name in ("patients", "wheels")}
    total = sum(sizes.values())
    print(", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()))
    print(f"{count} patients, {len(list(wheels.glob('*.whl')))} wheels; {total:.1f} of {LIMIT_MIB} MiB")
    if total > LIMIT_MIB:
        sys.exit(f"too much; move {ASIDE}* out of the checkout while the machine works, and back")


if __name__ == "__main__":
    main()
