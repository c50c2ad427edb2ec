"""Set up the environment of this folder: .venv with the packages that requirements.lock pins.

    python3 lib/environment.py [--test]            what `make` calls; works without make as well
    python lib/environment.py --here [--test]      into the Python that runs this, as in a conda environment

It needs Python's standard library alone, and may be stopped at any moment: the next call goes on.
"""

import argparse
import hashlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
TEST_LOCK = ROOT / "tests" / "requirements.lock"
PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_S = 8  # the longest wait for PyTorch's own index
OLDEST, NEWEST = (3, 11), (3, 13)  # the Pythons that were tried
BROKEN_OFF = "Connection|Read timed out|IncompleteRead|name resolution|Max retries|ProtocolError"
PIP = ["-m", "pip", "--disable-pip-version-check"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up the environment of this folder.")
    parser.add_argument("--test", action="store_true", help="with the packages that the tests import")
    parser.add_argument("--here", action="store_true", help="into the Python that runs this; no .venv")
    options = parser.parse_args()
    try:
        check_python()
        install(Path(sys.executable) if options.here else make_venv(ROOT / ".venv"), options.test)
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again, it goes on")


def refuse(sentence: str) -> NoReturn:
    """End with a sentence that says why the environment cannot be made and what to do."""
    sys.exit(f"error: {sentence}")


def check_python() -> None:
    """Refuse a Python that is too old; say so where nobody has tried this project."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST:
        needed = "3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 ..."
        refuse(f"this is Python {version}; {needed}")
    if sys.version_info[:2] > NEWEST:
        print(f"note: Python {version} was not tried; 3.11, 3.12 and 3.13 were")
    if sys.platform == "win32":
        print("note: Windows was not tried; Linux and WSL were, and should this fail, WSL is the way")


def make_venv(folder: Path) -> Path:
    """The Python of the environment in `folder`, made where it is not there or does not work."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if python.exists() and call([python, *PIP, "--version"]).returncode == 0:
        return python
    made = call([sys.executable, "-m", "venv", "--clear", folder])
    if made.returncode == 0:
        return python
    if "ensurepip" in made.stdout or "No module named venv" in made.stdout:
        venv = "this Python cannot make environments; on Debian and Ubuntu: apt install python3-venv"
        refuse(f"{venv}; then run the same command again")
    refuse(explain(made.stdout, f"{folder} could not be made"))


def install(python: Path, test: bool) -> None:
    """Install what the locks pin, and this project; what is there already is left alone."""
    locks = [LOCK, TEST_LOCK] if test else [LOCK]
    site = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    marker = site / ".dose-diffusion-ready"
    wanted = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*locks, ROOT / "pyproject.toml")]
    if marker.exists() and set(wanted) <= set(marker.read_text().split()):
        return
    remove_halves(site)
    install_torch(python, site)
    names = " and ".join(str(path.relative_to(ROOT)) for path in locks)
    print(f"setting up: the packages of {names}; this takes some minutes", flush=True)
    pip(python, *(argument for path in locks for argument in ("-r", path)))
    pip(python, "--no-deps", "-e", ROOT)
    marker.write_text("\n".join(wanted))


def install_torch(python: Path, site: Path) -> None:
    """PyTorch's CPU build where there is no NVIDIA driver; elsewhere its usual build, by the lock."""
    torch = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    if list(site.glob(f"{torch.replace('==', '-')}*.dist-info")):
        return
    if sys.platform != "linux":
        print(f"setting up: {torch} as the package index has it for {platform.system()}")
    elif has_nvidia_driver():
        print(f"setting up: {torch} with CUDA, several GB, because there is an NVIDIA driver")
    elif can_reach(PYTORCH_INDEX):
        print(f"setting up: {torch}, the CPU build, because there is no NVIDIA driver")
        pip(python, "--no-deps", torch, "--index-url", PYTORCH_INDEX)
    else:
        print(f"setting up: {torch} as the package index has it (there with CUDA, several GB): there is no")
        print(f"NVIDIA driver, but {PYTORCH_INDEX}, which has the CPU build, is not to be reached")


def has_nvidia_driver() -> bool:
    """Whether the kernel, or Windows below WSL, has one."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/usr/lib/wsl/lib/libcuda.so.1").exists()


def can_reach(address: str) -> bool:
    """Whether the address answers; in a process of its own, since a look-up of a name has no time-out."""
    ask = f"import urllib.request as r; r.urlopen({address + '/torch/'!r}, timeout={PROBE_S})"
    try:
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, timeout=PROBE_S, check=False)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False


def remove_halves(site: Path) -> None:
    """Forget packages of which files are missing, as a killed installation leaves them; pip then brings them
    anew."""
    for info in site.glob("*.dist-info"):
        files = importlib.metadata.PathDistribution(info).files
        if not files or not all(Path(file.locate()).exists() for file in files if file.suffix != ".pyc"):
            shutil.rmtree(info)


def pip(python: Path, *arguments: object) -> None:
    """Run pip install, or end with what pip says."""
    done = call([python, *PIP, "install", "--quiet", *arguments])
    if done.returncode:
        refuse(explain(done.stdout, "pip could not install everything"))


def explain(output: str, otherwise: str) -> str:
    """One sentence for what a program printed as it failed."""
    if "No space left on device" in output or "Errno 28" in output:
        free_gb = shutil.disk_usage(ROOT).free / 2**30
        return f"the disk is full; make room (5 GB; {free_gb:.1f} GB are left) and run the same command again"
    if re.search(BROKEN_OFF, output):
        return "the package index could not be reached, or broke off; run the same command again, it goes on"
    lines = [line for line in output.splitlines() if line.strip()] or ["it says nothing"]
    said = [line for line in lines if line.startswith("ERROR")] or lines
    return f"{otherwise} ({said[-1].strip()}); mend that and run the same command again"


def call(command: list) -> subprocess.CompletedProcess:
    """Run a command and keep what it prints."""
    words = [str(word) for word in command]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    main()
