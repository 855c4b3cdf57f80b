#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Builds and runs a consumer of ksm that gets it in one of the ways that users have.

usage: run.py CONSUMER COMPILER
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
root = here.parents[1]
consumer, compiler = sys.argv[1:]
os.environ["CXX"] = compiler
# Our warnings would be theirs.
os.environ["CXXFLAGS"] = "-Wall -Wextra -Werror"
version = re.findall(r"VERSION_M\w+ (\d+)", (root / "include/ksm/version.hpp").read_text())


def run(*command):
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True)


def refused(*command, because):
    """The command fails, and says why."""
    print("$ !", *command, flush=True)
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode == 0 or because not in result.stderr:
        sys.exit(f"not refused because of '{because}':\n{result.stdout}{result.stderr}")


def install_with_cmake(work):
    """Installs, and then moves the tree: nothing in it may name the place."""
    parts = [f"-DKSM_BUILD_{part}=OFF" for part in ["TESTS", "EXAMPLES", "BENCHMARKS"]]
    run("cmake", "-S", root, "-B", work / "ksm", "-G", "Ninja", *parts)
    run("cmake", "--install", work / "ksm", "--prefix", work / "first")
    return (work / "first").rename(work / "cmake-prefix")


def install_with_meson(work):
    parts = [f"-D{part}=false" for part in ["tests", "examples", "benchmarks"]]
    run("meson", "setup", work / "ksm-meson", root, "--prefix", work / "second", *parts)
    run("meson", "install", "-C", work / "ksm-meson")
    return (work / "second").rename(work / "meson-prefix")


def configure_with_cmake(work, *options):
    return ["cmake", "-S", here / consumer, "-B", work / "build", "-G", "Ninja", *options]


def build_with_cmake(work, *options):
    run(*configure_with_cmake(work, *options))
    run("cmake", "--build", work / "build")
    run(work / "build/consumer")


def find_package(work):
    prefix = f"-DCMAKE_PREFIX_PATH={install_with_cmake(work)}"
    refused(*configure_with_cmake(work, prefix, "-DWANTED=99"), because='version "99"')
    build_with_cmake(work, prefix, f"-DWANTED={'.'.join(version)}")


def add_subdirectory(work):
    build_with_cmake(work, f"-DKSM={root}")
    brings_nothing_else(work)


def fetch_content(work):
    archive = work / "ksm.tar.gz"
    run("tar", "-czf", archive, "-C", root, "--exclude=./build", "--exclude=./.git", ".")
    build_with_cmake(work, f"-DKSM={archive}")
    brings_nothing_else(work)


def brings_nothing_else(work):
    """A consumer gets no tests, programs or installed files that it did not ask for."""
    tests = subprocess.run(["ctest", "-N"], cwd=work / "build", stdout=subprocess.PIPE, check=True)
    run("cmake", "--install", work / "build", "--prefix", work / "prefix")
    if b"Total Tests: 0" not in tests.stdout or (work / "prefix").exists():
        sys.exit("the consumer got tests or installed files of ksm")


def meson_subproject(work):
    shutil.copytree(here / consumer, work / "source")
    shutil.copy(here / "main.cpp", work / "source")
    (work / "source/subprojects/ksm").symlink_to(root)
    run("meson", "setup", work / "build", work / "source", "--wrap-mode=forcefallback")
    run("meson", "compile", "-C", work / "build")
    run(work / "build/consumer")


def pkg_config(work):
    others = os.environ.get("PKG_CONFIG_PATH", "")
    for prefix in [install_with_cmake(work), install_with_meson(work)]:
        os.environ["PKG_CONFIG_PATH"] = f"{prefix}/share/pkgconfig:{others}"
        flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "ksm"], text=True)
        run(compiler, "-std=c++20", here / "main.cpp", *flags.split(), "-o", prefix / "consumer")
        run(prefix / "consumer")
        refused("pkg-config", "--print-errors", "ksm >= 99", because="99")


with tempfile.TemporaryDirectory(prefix="ksm-packaging-") as directory:
    globals()[consumer](pathlib.Path(directory))
