#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks that whatever repeats the version says what version.hpp says."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
text = (root / "include/ksm/version.hpp").read_text()
major, minor, patch = re.findall(r"#define KSM_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text)

faults = []


def expect(path, pattern, wanted):
    for version in re.findall(pattern, path.read_text(), re.MULTILINE):
        if version != wanted:
            faults.append(f"{path.relative_to(root)}: {version} instead of {wanted}")


expect(root / "include/ksm/version.hpp", r"inline namespace (v\w+) {", f"v{major}_{minor}")
# The topmost entry only: below it are versions of the past.
expect(root / "CHANGELOG.md", r"\A(?:(?!## ).*\n)*## (\S+)", f"{major}.{minor}.{patch}")
for page in [root / "README.md", *(root / "docs").glob("*.md")]:
    expect(page, r"find_package\(ksm ([\d.]+)", f"{major}.{minor}")

if faults:
    sys.exit("\n".join(faults))
