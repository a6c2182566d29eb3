"""Write constraints.txt: the versions that `make` installs, for each Python that it was made on.

    python .ci/lock.py python3.11 python3.13

Each interpreter gets a fresh environment with the extras `dev` and `docs`. What pip installs there
is the lock of this Python. Other Pythons are not bound.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = "dev,docs"
HEADER = """\
# The versions that `make` and continuous integration install: pip install -c constraints.txt ...
# Written by .ci/lock.py. A Python that is not named here takes the newest versions.
"""


def versions(python: str, folder: Path) -> tuple[str, dict[str, str]]:
    """The version of an interpreter, and what pip installs for it, by the name of the package."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    run = folder / "bin" / "python"
    subprocess.run([run, "-m", "pip", "install", "-q", "-e", f"{ROOT}[{EXTRAS}]"], check=True)
    freeze = [run, "-m", "pip", "freeze", "--exclude-editable"]
    lines = subprocess.check_output(freeze, text=True).splitlines()
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.check_output([run, "-c", code], text=True).strip()
    return version, dict(line.split("==") for line in lines)


def constraints(locks: dict[str, dict[str, str]]) -> str:
    """The text of the file.

    Args:
        locks: version of each package, by Python and package.
    """
    pythons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for python, pins in locks.items():
        for name, version in pins.items():
            pythons[name, version].append(python)
    lines = [
        f"{name}=={version} ; " + " or ".join(f"python_version == '{each}'" for each in bound)
        for (name, version), bound in sorted(
            pythons.items(), key=lambda entry: (entry[0][0].lower(), entry[1])
        )
    ]
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    """Lock the interpreters that the command line names."""
    with tempfile.TemporaryDirectory() as folder:
        made = [versions(python, Path(folder) / str(n)) for n, python in enumerate(sys.argv[1:])]
    (ROOT / "constraints.txt").write_text(constraints(dict(made)))


if __name__ == "__main__":
    main()
