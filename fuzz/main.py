"""Run one harness under atheris: `python fuzz/main.py darknet_cfg -max_total_time=60`.

A harness is a file beside this one with `check(data)`, which must raise nothing, and `seeds()`, inputs to
start from.
Options behind its name are libFuzzer's. What crashes is written to fuzz/found/.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path

import atheris

HERE = Path(__file__).parent


def main() -> None:
    """Write the seeds, and fuzz."""
    name, options = sys.argv[1], sys.argv[2:]
    logging.disable()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["detcam"]):
        harness = importlib.import_module(name)
    corpus, found = HERE / "corpus" / name, HERE / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(harness.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-artifact_prefix={found}/{name}-",
        "-timeout=20",
        "-rss_limit_mb=4096",
        *options,
    ]
    atheris.Setup(arguments, harness.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
