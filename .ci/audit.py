"""Known holes in the packages of every list, as the index knows them (make audit).

Exit code 0: none is known, or the index did not answer, which is said; 1: there are some.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600


def asked(path: Path) -> tuple[list[str], list[str], int]:
    """The holes and the packages that could not be looked up, a line each, and how many were, of one list."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format=json", "--timeout=10"]
    command += ["--progress-spinner=off", "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [], [(done.stderr.strip().splitlines() or ["no answer"])[-1]], 0
    holes = [
        f"{path.name}: {package['name']} {package['version']}: {hole['id']}, fixed in {hole['fix_versions'] or 'none'}"
        for package in packages
        for hole in package.get("vulns", [])
    ]
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    return holes, skipped, len(packages) - len(skipped)


def main() -> int:
    """Ask for each list; say what was found and what was not asked."""
    found, known, missed = [], 0, []
    for path in sorted(ROOT.glob("requirements*.txt")):
        holes, skipped, answered = asked(path)
        found += holes
        missed += skipped
        known += answered
        if not answered:
            break  # no answer; the other lists would wait as long
    print(*found, sep="\n", end="\n" if found else "")
    if missed:
        print(f"audit: NOT DONE for {len(missed) if known else 'all'} packages ({missed[0][:120]})")
    if known:
        print(f"audit: {len(found)} known holes in {known} packages of this machine's Python and system")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
