"""The files of this checkout, as tests that change it or run it whole need them: a copy."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy(place: Path) -> None:
    """Copy what git tracks or would track to `place`, links as links."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name, follow_symlinks=False)
