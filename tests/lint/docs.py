#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks that a program shown in the documentation is, letter for letter, one that is tested."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
shown = [
    ("docs/page_provider.md", "examples/minimal_provider.cpp"),
    ("README.md", "tests/readme/program.cpp"),
]

faults = []
for page, program in shown:
    marked = rf"<!-- begin {re.escape(program)} -->\n```cpp\n(.*?)```\n<!-- end -->"
    found = re.search(marked, (root / page).read_text(), re.DOTALL)
    if found is None:
        faults.append(f"{page}: does not show {program}")
    elif found[1] != (root / program).read_text():
        faults.append(f"{page}: {program} is a different program")

if faults:
    sys.exit("\n".join(faults))
