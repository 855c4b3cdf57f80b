#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Plants each bug of this directory into a copy of the headers and requires that a test fails.

A mutant NAME.txt names the invariant that it breaks, the header below include/ksm, the test file
below tests/ that must catch it, and what is wrong; then follow one or more replacements, each of
a text that must occur exactly once:
    <<<<<<<
    text
    =======
    other text
    >>>>>>>
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
INCLUDE = TESTS.parent / "include"
REPLACEMENT = re.compile(r"^<{7}\n(.*?)\n={7}\n(.*?)>{7}\n", re.M | re.S)


class Mutant:
    def __init__(self, path):
        self.name = path.stem
        text = path.read_text()
        fields = dict(re.findall(r"^(invariant|file|test|bug): (.*)$", text, re.M))
        self.invariant = fields["invariant"]
        self.header = fields["file"]
        self.test = fields["test"]
        self.bug = fields["bug"]
        self.replacements = REPLACEMENT.findall(text)

    def planted_in(self, text):
        """Returns the text of the header with the bug, and what is wrong with the mutant itself."""
        if not self.replacements:
            return text, "has no replacement"
        for old, new in self.replacements:
            if text.count(old) != 1:
                return text, f"does not apply: its text occurs {text.count(old)} times"
            text = text.replace(old, new.removesuffix("\n"))
        return text, None

    def plant(self, include):
        """Returns what is wrong with the mutant itself, or None."""
        header = include / "ksm" / self.header
        text, wrong = self.planted_in(header.read_text())
        header.write_text(text)
        return wrong


def compile_test(compiler, include, source, output):
    command = [*compiler, "-std=c++20", "-O1", "-D_GLIBCXX_ASSERTIONS", f"-I{include}",
               f"-I{TESTS}", "-c", str(source), "-o", str(output)]
    return subprocess.run(command, capture_output=True, text=True)


def message(output):
    """The invariant that the failed test names, else the test and its failed assertion."""
    if modelled := re.search(r"^model: \d+ operations.*\n(.*)$", output, re.M):
        return modelled.group(1)
    if named := re.search(r"^-{79}\n(.*)\n(?:.*\n)*?-{79}\n", output, re.M):
        return named.group(1).strip()
    if asserted := re.search(r"Assertion `.*?\"(.*?)\"", output):
        return "assertion: " + asserted.group(1)
    return "the process died"


def run(mutant, compiler, main_object, operations):
    """Returns (caught, what was seen)."""
    with tempfile.TemporaryDirectory(prefix="ksm-mutant-") as work:
        work = pathlib.Path(work)
        shutil.copytree(INCLUDE, work / "include")
        if wrong := mutant.plant(work / "include"):
            return False, wrong
        test = work / "test.o"
        compiled = compile_test(compiler, work / "include", TESTS / mutant.test, test)
        if compiled.returncode != 0:
            return False, "does not compile:\n" + compiled.stderr[:2000]
        program = work / "test"
        subprocess.run([*compiler, str(main_object), str(test), "-o", str(program)], check=True)
        try:
            result = subprocess.run([str(program), "--abort"], capture_output=True, text=True,
                                    timeout=120,
                                    env={**os.environ, "KSM_MODEL_OPS": str(operations)})
        except subprocess.TimeoutExpired:
            return True, "the test does not end"
        if result.returncode == 0:
            return False, "survives"
        return True, message(result.stdout + result.stderr)


def table(mutants, seen):
    lines = ["# What catches what", "",
             "Each bug below is planted by `run.py` into a copy of the headers; the test must then",
             "fail. Written by `tests/mutants/run.py --table`.", "",
             "| breaks | planted bug | in | caught by | which says |", "|---|---|---|---|---|"]
    for m in mutants:
        lines.append(f"| {m.invariant} | [{m.bug}]({m.name}.txt) | `{m.header}` | "
                     f"`{m.test}` | {seen[m.name]} |")
    (HERE / "README.md").write_text("\n".join(lines) + "\n")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("names", nargs="*", help="mutants to run (default: all)")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("--compiler", default=os.environ.get("CXX", "g++"))
    options.add_argument("--operations", type=int, default=100000, help="of the model test")
    options.add_argument("--short", action="store_true", help="one mutant for each invariant")
    options.add_argument("--dry-run", action="store_true", help="only see whether each applies")
    options.add_argument("--table", action="store_true", help="write README.md")
    arguments = options.parse_args()

    mutants = [Mutant(p) for p in HERE.glob("*.txt")]
    mutants.sort(key=lambda m: (m.invariant[0], int(m.invariant[1:]), m.name))
    if arguments.names:
        mutants = [m for m in mutants if m.name in arguments.names]
    if arguments.short:
        mutants = list({m.invariant: m for m in mutants}.values())
    if not mutants:
        sys.exit("no mutant of that name")
    if arguments.dry_run:
        faults = [f"{m.name}: {wrong}" for m in mutants
                  if (wrong := m.planted_in((INCLUDE / "ksm" / m.header).read_text())[1])]
        sys.exit("\n".join(faults) or 0)
    compiler = [arguments.compiler]
    if shutil.which("ccache"):
        compiler.insert(0, "ccache")

    failed = 0
    seen = {}
    with tempfile.TemporaryDirectory(prefix="ksm-mutants-") as work:
        main_object = pathlib.Path(work) / "main.o"
        if compile_test(compiler, INCLUDE, TESTS / "support" / "main.cpp",
                        main_object).returncode != 0:
            sys.exit("support/main.cpp does not compile")
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            results = pool.map(
                lambda m: run(m, compiler, main_object, arguments.operations), mutants)
            for m, (caught, what) in zip(mutants, results):
                print(f"{'caught' if caught else 'FAILED'} {m.invariant:4} {m.name}: {what}",
                      flush=True)
                failed += not caught
                seen[m.name] = what
    print(f"{len(mutants) - failed} of {len(mutants)} mutants caught")
    if arguments.table and not failed and not arguments.names and not arguments.short:
        table(mutants, seen)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
