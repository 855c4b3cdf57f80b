#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks what headers include against layers.txt."""

import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
folder = root / "include/ksm"

places = {}  # a header or folder -> (layer, part, position in the part)
homes = {}  # the beginning of others' headers -> where they may be included
for layer, line in enumerate((root / "tests/lint/layers.txt").read_text().splitlines()):
    if line.startswith("#"):
        continue
    if ":" in line:
        home, beginnings = line.split(":")
        homes.update((beginning, home.split()) for beginning in beginnings.split())
        continue
    for part, names in enumerate(line.split("|")):
        for position, name in enumerate(names.split()):
            places[name] = (layer, part, position)


def names_of(header):
    """The header and the folders that it is in, the innermost first."""
    return [header, *(f"{parent}/" for parent in pathlib.PurePath(header).parents)]


def place(header):
    return next((places[name] for name in names_of(header) if name in places), None)


def is_allowed(header, included):
    mine = place(header)
    if included.startswith("<ksm/"):
        theirs = place(included[5:-1])
        return theirs is not None and (
            theirs[0] < mine[0] or theirs[:2] == mine[:2] and theirs[2] <= mine[2]
        )
    return all(
        set(home) & set(names_of(header))
        for beginning, home in homes.items()
        if included.startswith(beginning)
    )


faults = [f"layers.txt: {name} does not exist" for name in places if not (folder / name).exists()]
for path in sorted(folder.rglob("*.hpp")):
    header = path.relative_to(folder).as_posix()
    if place(header) is None:
        faults.append(f"{header}: has no place in layers.txt")
        continue
    for included in re.findall(r"^ *# *include (<.*>)", path.read_text(), re.MULTILINE):
        if not is_allowed(header, included):
            faults.append(f"{header}: must not include {included}")

if faults:
    sys.exit("\n".join(faults))
