"""Ask the package index about the pinned packages: known vulnerabilities, whether there are newer versions.

    python tests/campaigns/vulnerabilities.py [requirements.lock]

An index lists the vulnerabilities of each version (pip-audit's data base); a mirror may know of the newest
version alone, and then an older one counts as unknown. Prints what is listed, what is unknown, and the last
line for the README.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

INDEX = "https://pypi.org/pypi"


def record(*parts: str) -> dict | None:
    """The index's JSON of a package, or of one version of it; None if it has none."""
    try:
        with urllib.request.urlopen("/".join([INDEX, *parts, "json"]), timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        return None


def judge(name: str, version: str) -> tuple[str, str]:
    """("listed" | "none listed" | "unknown", what is known) of a pinned version."""
    known_version = record(name, version)
    if not known_version:
        newest = record(name)
        if not newest or newest["info"]["version"] != version:
            return "unknown", f"newest is {newest['info']['version'] if newest else 'unknown'}"
        known_version = newest
    known = [v["id"] for v in known_version.get("vulnerabilities", []) if not v.get("withdrawn")]
    return ("listed", ", ".join(known)) if known else ("none listed", "")


def main() -> None:
    lock = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "requirements.lock")
    counts = {"listed": 0, "none listed": 0, "unknown": 0}
    for name, version in re.findall(r"^([\w.\-]+)==([^\s;+]+)", lock.read_text(), re.MULTILINE):
        verdict, why = judge(name, version)
        counts[verdict] += 1
        if verdict != "none listed":
            print(f"{name} {version}: {verdict} ({why})", flush=True)
    print(f"{sum(counts.values())} packages: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    sys.exit(bool(counts["listed"]))


if __name__ == "__main__":
    main()
