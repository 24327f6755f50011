"""Looks the pinned packages up in PyPI's advisories. A known vulnerability fails; a service out of reach is only said.

On GitHub's runners, which reach the service, not to have checked fails too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
UNREACHED = "Advisories: the service could not be reached ({why}), so the pinned packages were NOT checked."
OFFLINE = ("requests.exceptions", "ConnectionError", "ServiceError")


def verdict(stdout: str, stderr: str, strict: bool = False) -> tuple[str, int]:
    """What to say, and the exit status, after pip-audit. ``strict``: what was not checked fails."""
    try:
        packages = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return (UNREACHED.format(why=last[:200]), int(strict)) if any(name in stderr for name in OFFLINE) else (last, 1)
    # a mirror without advisories answers "not found" to everything, and pip-audit takes that for no vulnerabilities
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return UNREACHED.format(why="it knows none of them; a mirror?"), int(strict)
    lines = [
        f"Advisories: {package['name']} {package['version']}: {found['id']}, "
        f"fixed in {', '.join(found['fix_versions']) or 'no version yet'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    status = int(bool(lines) or (strict and bool(unknown)))
    lines.append(f"Advisories: {len(packages) - len(unknown)} of {len(packages)} pinned packages checked.")
    if unknown:
        lines.append(f"Advisories: not known there, so not checked: {', '.join(unknown)}.")
    return "\n".join(lines), status


if __name__ == "__main__":
    asked = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip_audit",
            "--requirement",
            str(REQUIREMENTS),
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--timeout",
            "10",
            "--format",
            "json",
        ],
        capture_output=True,
        text=True,
    )
    said, code = verdict(asked.stdout, asked.stderr, strict=os.environ.get("GITHUB_ACTIONS") == "true")
    print(said)
    sys.exit(code)
