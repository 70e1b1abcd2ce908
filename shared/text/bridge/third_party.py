#!/usr/bin/env python3
"""Writes THIRD_PARTY.md: every crate that Cargo.lock brings into a Linux build of the text bridge, with its licence.

Usage: third_party.py           writes the file beside this script
       third_party.py --check   fails if the file is not what would be written
"""

import json
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
HEADER = """# Crates in the text bridge

Written by `third_party.py` from `Cargo.lock`; a test fails when it is out of date. Crates marked *build* only run while
building (code generators and macros) and are not part of any program.

`onig_sys` contains the regular expression library Oniguruma (BSD-2-Clause, (c) 2002-2021 K.Kosako), which is compiled in.

| crate | version | licence | source | |
| --- | --- | --- | --- | --- |
"""


def crates(metadata):
    """Names the packages of the build as (package, only used while building)."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    linked, built = set(), set()

    def visit(node_id, while_building):
        seen = built if while_building else linked
        if node_id in seen:
            return
        seen.add(node_id)
        for dependency in nodes[node_id]["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            is_macro = any("proc-macro" in target["kind"] for target in packages[dependency["pkg"]]["targets"])
            if None in kinds:
                visit(dependency["pkg"], while_building or is_macro)
            if "build" in kinds:
                visit(dependency["pkg"], True)

    visit(root, False)
    for package_id in (linked | built) - {root}:
        yield packages[package_id], package_id not in linked


def render():
    """The text of THIRD_PARTY.md."""
    output = subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version", "1",
         "--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path", str(FOLDER / "Cargo.toml")],
        check=True, stdout=subprocess.PIPE).stdout
    rows = []
    for package, build_only in crates(json.loads(output)):
        licence = package["license"]
        if not licence:
            sys.exit(f"{package['name']} {package['version']} states no licence; look for it and replace the crate if it has none")
        rows.append(f"| {package['name']} | {package['version']} | {licence} | {package['repository'] or ''} |"
                    f" {'build' if build_only else ''} |\n")
    return HEADER + "".join(sorted(rows))


def main():
    text = render()
    path = FOLDER / "THIRD_PARTY.md"
    if "--check" not in sys.argv[1:]:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path} does not match Cargo.lock; run shared/text/bridge/third_party.py and commit it")


if __name__ == "__main__":
    main()
