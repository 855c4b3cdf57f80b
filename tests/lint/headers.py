#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks the form of each header, and that CMake installs exactly the headers that there are."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
headers = {p.relative_to(root).as_posix(): p for p in sorted((root / "include").rglob("*.hpp"))}

faults = []
listed = re.findall(r"^ +(include/\S+\.hpp)", (root / "CMakeLists.txt").read_text(), re.MULTILINE)
if listed != sorted(listed):
    faults.append("CMakeLists.txt: the headers are not sorted")
for name in sorted(set(listed) ^ set(headers)):
    faults.append(f"{name}: {'does not exist' if name in listed else 'is not in CMakeLists.txt'}")

for name, path in headers.items():
    lines = path.read_text().splitlines()
    guard = re.sub(r"\W", "_", name.removeprefix("include/")).upper()
    if f"#ifndef {guard}" not in lines or f"#define {guard}" not in lines:
        faults.append(f"{name}: the include guard is not {guard}")
    if len(lines) > 500:
        faults.append(f"{name}: {len(lines)} lines are more than 500")

code = [".hpp", ".cpp", ".py", ".build", ".cmake"]
for folder in ["include", "tests", "examples", "bench", "scripts", ".ci"]:
    for path in sorted((root / folder).rglob("*")):
        # After a script's interpreter, if it has one.
        if path.suffix in code or path.parent.name in ["scripts", ".ci"]:
            lines = [s for s in path.read_text().splitlines()[:2] if not s.startswith("#!")]
            if not lines or "SPDX-License-Identifier: BSL-1.0" not in lines[0]:
                faults.append(f"{path.relative_to(root)}: does not begin with its licence")

if faults:
    sys.exit("\n".join(faults))
