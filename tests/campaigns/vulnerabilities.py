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


def record(*parts):
    """The index's JSON of a package, or of one version of it; None if it has none."""
    try:
        with urllib.request.urlopen("/".join([INDEX, *parts, "json"]), timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        return None


def judge(name, version):
    """("listed" | "none listed" | "unknown", what is known) of a pinned version."""
    found = record(name, version)
    if not found:
        newest = record(name)
        if not newest or newest["info"]["version"] != version:
            return "unknown", f"newest is {newest['info']['version'] if newest else 'unknown'}"
        found = newest
    known = [v["id"] for v in found.get("vulnerabilities", []) if not v.get("withdrawn")]
    return ("listed", ", ".join(known)) if known else ("none listed", "")


def main():
    lock = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "requirements.lock")
    counts = {"listed": 0, "none listed": 0, "unknown": 0}
    for name, version in re.findall(r"^([\w.\-]+)==([^\s;+]+)", lock.read_text(), re.MULTILINE):
        told, why = judge(name, version)
        counts[told] += 1
        if told != "none listed":
            print(f"{name} {version}: {told} ({why})", flush=True)
    print(f"{sum(counts.values())} packages: " + ", ".join(f"{n} {told}" for told, n in counts.items()))
    sys.exit(bool(counts["listed"]))


if __name__ == "__main__":
    main()
