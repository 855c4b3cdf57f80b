#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks that Meson, which has no globs, builds every program and test that CMake builds."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
patterns = [
    "tests/unit/*.test.cpp",
    "tests/static/*.test.cpp",
    "tests/conformance/*.test.cpp",
    "tests/model/*.test.cpp",
    "tests/integration/linux_*.test.cpp",
    "tests/compile_fail/*.cpp",
    "examples/*.cpp",
    "bench/*.cpp",
]

faults = []
for pattern in patterns:
    build = root / pattern.split("/")[0] / "meson.build"
    listed = set(re.findall(r"'([\w./]+)'", build.read_text()))
    for path in sorted(root.glob(pattern)):
        name = path.relative_to(build.parent).as_posix()
        if name not in listed and path.stem not in listed:
            faults.append(f"{build.relative_to(root)}: does not list {name}")

if faults:
    sys.exit("\n".join(faults))
