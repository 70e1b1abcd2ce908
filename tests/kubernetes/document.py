"""The commands of docs/kubernetes.md, run as they stand there, section by section, in node 1's network.

A block of commands is fenced with ```bash. Files that they make stay in `folder`, beside links to the parts of the
repository; `conclave` is the build's. Every block must be run once in a full run: see `not_run`.
"""

import os
import pathlib
import re
import shutil
import subprocess

from cluster import inside
from kube import ROOT
from report import Problem

PAGE = ROOT / "docs" / "kubernetes.md"


def blocks():
    """{heading: [text of a block]}"""
    found, heading, lines = {}, None, None
    for line in PAGE.read_text().splitlines():
        if lines is not None:
            if line == "```":
                found.setdefault(heading, []).append("\n".join(lines) + "\n")
                lines = None
            else:
                lines.append(line)
        elif line == "```bash":
            lines = []
        elif title := re.fullmatch(r"#+ (.*)", line):
            heading = title[1]
    return found


class Document:
    def __init__(self, cluster, build):
        self.blocks = blocks()
        self.done = set()
        self.folder = cluster.folder / "document"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for part in ROOT.iterdir():
            if not part.name.startswith((".", "build")):
                (self.folder / part.name).symlink_to(part)
        (self.folder / "build").symlink_to(build.resolve())
        self.environment = {
            "KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{cluster.tools}:{build}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder), "CONCLAVE_STATE_DIR": str(self.folder / "state"),
        }  # fmt: skip
        self.folder.joinpath("state").mkdir()

    def replace(self, path, text):
        """Puts a file in the place of one of the repository's, for the commands that name it."""
        at = self.folder
        for part in pathlib.Path(path).parent.parts:
            at = at / part
            if at.is_symlink():
                real = at.resolve()
                at.unlink()
                at.mkdir()
                for child in real.iterdir():
                    (at / child.name).symlink_to(child)
        (at / pathlib.Path(path).name).unlink(missing_ok=True)
        (self.folder / path).write_text(text)

    def run(self, heading, number=0, timeout=150, outside=False, **environment):
        """Runs one block, and returns what it prints; a Problem when one of its commands fails."""
        self.done.add((heading, number))
        return self.shell(self.blocks[heading][number], f"docs/kubernetes.md, {heading}, block {number + 1}", timeout, outside, **environment)

    def shell(self, text, where, timeout=150, outside=False, **environment):
        """Runs commands beside the files of the blocks; `where` they stand is for the Problem."""
        text = "set -euo pipefail\n" + text
        command = ["bash", "-c", text] if outside else inside(1, "bash", "-c", text)
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if result.returncode != 0:
            raise Problem(f"{where}: {result.stderr.strip()[-2000:]}\n{result.stdout.strip()[-2000:]}")
        return result.stdout

    def not_run(self):
        return [f"{heading}, block {number + 1}" for heading, texts in self.blocks.items() for number in range(len(texts)) if (heading, number) not in self.done]
