"""What a figure was measured on."""

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    rows = info.read_text().splitlines() if info.exists() else []
    names = [row.split(":")[1] for row in rows if row.startswith("model name")]
    return f"{(names or [platform.processor()])[0].strip()}, {os.cpu_count()} cores"
