#!/usr/bin/env python3
"""Writes the Grafana dashboards of the chart, one file each: tools/dashboards/generate.py [FOLDER]."""

import json
import pathlib
import sys

import cache_and_kv
import engine
import experts
import gateway
import overview

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "helm" / "conclave" / "files" / "dashboards"
DASHBOARDS = {"overview": overview, "gateway": gateway, "engine": engine, "experts": experts, "cache-and-kv": cache_and_kv}


def texts():
    """File name -> what it is to hold."""
    return {f"{name}.json": json.dumps(module.make(), indent=1, sort_keys=True) + "\n" for name, module in DASHBOARDS.items()}


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (folder / name).write_text(text)
