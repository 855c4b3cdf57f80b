#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks that a compiler refuses a program, and that it says what the program expects.

usage: compile_fail.py CASE -- COMPILER [OPTION...]

The second line of CASE is `// expect: PART OF THE MESSAGE`. With `// expect: nothing` the program
must compile: so a case can show that the others fail for no reason but their own.
"""

import pathlib
import re
import subprocess
import sys

PREFIX = "// expect: "


def main():
    try:
        dashes = sys.argv.index("--")
    except ValueError:
        dashes = 0
    if dashes != 2 or len(sys.argv) < 4:
        sys.exit(__doc__)
    case, command = sys.argv[1], sys.argv[3:]

    lines = pathlib.Path(case).read_text(encoding="utf-8").splitlines()
    if len(lines) < 2 or not lines[1].startswith(PREFIX):
        sys.exit(f"{case}: the second line is not `{PREFIX}...`")
    expected = lines[1].removeprefix(PREFIX)

    run = subprocess.run([*command, case], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         encoding="utf-8", check=False)
    if expected == "nothing":
        if run.returncode != 0:
            sys.exit(f"{case}: does not compile:\n{run.stdout}")
        return
    if run.returncode == 0:
        sys.exit(f"{case}: compiles, but should not")
    # Compilers quote the message, and the program's own line, too: only an error counts.
    errors = [line for line in run.stdout.splitlines() if re.search(r"\berror\b", line)]
    if not any(expected in line for line in errors):
        sys.exit(f"{case}: `{expected}` is not among the errors of\n{run.stdout}")


main()
