"""Runs all checks, or those of the modules that are named."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings

from checking import run_checks

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    run_checks()
