"""What is needed is said once: pyproject, locks, environment.yml and the set-up hold together."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from lib import environment
from lib.files import ROOT


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path="requirements.lock"):
    lines = (line.partition(" ;")[0] for line in (ROOT / path).read_text().splitlines() if "==" in line)
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(requirements):
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def test_every_dependency_is_locked_and_torch_is_the_pinned_one():
    assert names_of(project()["dependencies"]) <= set(locked())
    assert locked()["torch"] == "2.13.0" and "torch==2.13.0" in project()["dependencies"]


def test_the_lock_is_lean():
    assert not {"pydosert", "pydicom", "pymedphys", "diffusers", "simpleitk", "numba"} & set(locked())


def test_what_the_tests_import_is_asked_for_and_locked():
    own = {path.stem for path in [*ROOT.glob("tests/**/*"), ROOT / "lib"]}
    imported = {
        name
        for path in ROOT.glob("tests/*.py")
        for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
    }
    outside = {canonical(name) for name in imported - own - set(sys.stdlib_module_names)}
    known_as = {"yaml": "pyyaml", "skimage": "scikit-image", "pil": "pillow", "ipython": "ipython"}
    known_as |= {"dicompylercore": "dicompyler-core"}
    test = project()["optional-dependencies"]["test"]
    both = locked() | locked("tests/requirements.lock")
    assert names_of(test) <= set(both)
    assert {known_as.get(name, name) for name in outside} <= set(both)
    assert not set(locked()) & set(locked("tests/requirements.lock"))


def test_every_locked_package_runs_on_the_oldest_python_that_is_promised():
    """Debian's Python is 3.11.2; a package for 3.11.5 and newer broke the set-up there."""
    for name in locked() | locked("tests/requirements.lock"):
        try:
            asked = importlib.metadata.metadata(name).get("Requires-Python") or ""
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this Python
        assert SpecifierSet(asked).contains("3.11.0"), name


def test_the_conda_environment_installs_the_lock_and_this_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    assert f"CONDA_DEFAULT_ENV),{conda['name']})" in (ROOT / "Makefile").read_text()


def test_nothing_that_is_loaded_can_run_code():
    forbidden = re.compile(
        r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|yaml\.load\(|pickle\.load|(?<![.\w])(eval|exec)\("
    )
    sources = [*ROOT.glob("lib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    assert sources and not [path for path in sources if forbidden.search(path.read_text())]


def test_no_two_params_files_write_one_experiment():
    files = sorted(ROOT.glob("params/*.yaml"))
    names = [yaml.safe_load(path.read_text())["experiment"] for path in files]
    assert len(set(names)) == len(names)


def test_no_floor_of_lib_imports_one_above_it():
    """pyproject.toml names the floors."""
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


# --- the set-up, in a copy of what it reads ---


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the locks, in which set-up thinks it lies."""
    for name in ("requirements.lock", "tests/requirements.lock", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(environment, "TEST_LOCK", tmp_path / "tests" / "requirements.lock")
    return tmp_path


@pytest.fixture
def site(tmp_path):
    """A folder of packages: one whole, one of which a file is missing, one without a list of files."""
    site = tmp_path / "site"
    for name, record in (("whole", "whole.py,,\n"), ("half", "half.py,,\n"), ("bare", None)):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if record:
            (info / "RECORD").write_text(record)
    (site / "whole.py").write_text("")
    return site


def test_packages_that_a_killed_set_up_left_half_are_forgotten(site):
    environment.remove_halves(site)
    assert [path.name for path in site.glob("*.dist-info")] == ["whole-1.0.dist-info"]


@pytest.mark.parametrize(
    "driver, reachable, says, asked_index",
    [
        (False, True, "the CPU build, because there is no NVIDIA driver", True),
        (False, False, "is not to be reached", False),
        (True, True, "with CUDA", False),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the choice is Linux's: elsewhere there is one build")
def test_which_build_of_torch_is_taken_and_why(
    driver, reachable, says, asked_index, place, site, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(environment, "can_reach", lambda address: reachable)
    monkeypatch.setattr(environment, "pip", lambda python, *arguments: asked.append(arguments))
    environment.install_torch("python", site)
    assert says in capsys.readouterr().out
    assert bool(asked) == asked_index
    if asked:
        assert asked[0][1:] == ("torch==2.13.0", "--index-url", environment.PYTORCH_INDEX)


def test_torch_of_the_lock_is_not_fetched_again(place, site, monkeypatch):
    (site / "torch-2.13.0+cpu.dist-info").mkdir()
    monkeypatch.setattr(environment, "pip", lambda *arguments: pytest.fail("asked again"))
    environment.install_torch("python", site)


def test_an_index_that_never_answers_costs_at_most_ten_seconds(monkeypatch):
    monkeypatch.setattr(environment, "PROBE_S", 0.5)
    serve = "import socket, time; a = socket.create_server(('127.0.0.1', 0)); print(a.getsockname()[1])"
    with subprocess.Popen(
        [sys.executable, "-uc", f"{serve}; time.sleep(30)"], stdout=subprocess.PIPE, text=True
    ) as silent:
        port = silent.stdout.readline().strip()
        assert not environment.can_reach(f"http://127.0.0.1:{port}")
        silent.kill()


@pytest.mark.parametrize(
    "printed, told",
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: ReadTimeoutError: Read timed out.", "run the same command again, it goes on"),
        ("ERROR: Ignored versions\nERROR: No matching distribution for torch==9", "(ERROR: No matching"),
        ("", "it says nothing"),
    ],
)
def test_what_pip_prints_becomes_one_sentence(printed, told):
    assert told in environment.explain(printed, "pip could not install everything")


def test_a_python_that_is_too_old_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"3\.11, 3\.12 or 3\.13 is needed"):
        environment.check_python()


def test_a_python_without_venv_is_told_what_to_install(place, monkeypatch):
    said = "The virtual environment was not created successfully because ensurepip is not available."
    failed = subprocess.CompletedProcess([], 1, stdout=said)
    monkeypatch.setattr(environment, "call", lambda command: failed)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        environment.make_venv(place / ".venv")


def test_a_finished_environment_is_left_alone_and_a_changed_lock_is_not(place, site, monkeypatch):
    asked = []
    where = subprocess.CompletedProcess([], 0, stdout=f"{site}\n")
    monkeypatch.setattr(environment, "call", lambda command: where)
    monkeypatch.setattr(environment, "install_torch", lambda python, site: None)
    monkeypatch.setattr(environment, "pip", lambda python, *arguments: asked.append(arguments))
    for test, calls in ((False, 2), (False, 2), (True, 4), (False, 4)):
        environment.install("python", test)
        assert len(asked) == calls
    (place / "requirements.lock").write_text("torch==2.13.0\nnumpy==1\n")
    environment.install("python", False)
    assert len(asked) == 6
