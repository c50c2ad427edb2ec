"""What is needed is said once: pyproject, lock and environment.yml hold together."""

import re
import tomllib

import yaml

from lib.experiment import ROOT


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {
        canonical(name): version
        for name, _, version in (line.partition("==") for line in lines if "==" in line)
    }


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_is_locked_and_torch_is_the_pinned_one():
    names = [canonical(re.match(r"[\w.-]+", d)[0]) for d in project()["dependencies"]]
    assert set(names) <= set(locked())
    assert locked()["torch"] == "2.13.0" and "torch==2.13.0" in project()["dependencies"]


def test_the_lock_is_lean():
    assert not {"pydosert", "pydicom", "pymedphys", "diffusers", "simpleitk", "numba"} & set(locked())


def test_the_conda_environment_installs_the_lock_and_this_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    assert f"CONDA_DEFAULT_ENV),{environment['name']})" in (ROOT / "Makefile").read_text()


def test_nothing_that_is_loaded_can_run_code():
    forbidden = re.compile(
        r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|yaml\.load\(|pickle\.load|(?<![.\w])(eval|exec)\("
    )
    sources = [*ROOT.glob("lib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    assert sources and not [path for path in sources if forbidden.search(path.read_text())]
