#!/usr/bin/env python3
"""Checks the style of proto/: names, comments, numbers.

Messages, enums, services and rpcs are CamelCase and fields snake_case; enum values carry the enum's name and begin with
..._UNSPECIFIED = 0; a field number that is left out is declared reserved, so that
a removed field's number is never given to another.
"""

import pathlib
import re
import sys

CAMEL = re.compile(r"^[A-Z][A-Za-z0-9]*$")
SNAKE = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
FIELD = re.compile(
    r"^(?:optional |repeated )?(?:map<[^>]+>|[\w.]+) (\w+) = (\d+)(?: \[.*\])?;$")
ENUM_VALUE = re.compile(r"^(\w+) = (-?\d+);$")


def upper_snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def reserved_numbers(text):
    numbers = set()
    for part in text.split(","):
        part = part.strip()
        if match := re.match(r"^(\d+) to (\d+)$", part):
            numbers.update(range(int(match[1]), int(match[2]) + 1))
        elif part.isdigit():
            numbers.add(int(part))
    return numbers


def check_file(path):
    errors = []
    blocks = []  # (kind, name, line, numbers)
    lines = path.read_text().splitlines()
    if not lines or not lines[0].startswith("//"):
        errors.append((1, "the file opens with a comment that says what it is for"))
    if not any(line == "package conclave.v1;" for line in lines):
        errors.append((1, "the package is conclave.v1"))
    for number, raw in enumerate(lines, 1):
        line = raw.split("//")[0].strip()
        if match := re.match(r"^(message|enum|service|oneof) (\w+) \{(\})?$", line):
            kind, name, closed = match[1], match[2], match[3]
            if kind == "oneof":
                if not SNAKE.match(name):
                    errors.append((number, f"oneof {name} is not snake_case"))
            elif not CAMEL.match(name):
                errors.append((number, f"{kind} {name} is not CamelCase"))
            if not closed:
                blocks.append((kind, name, number, []))
        elif match := re.match(r"^rpc (\w+)", line):
            if not CAMEL.match(match[1]):
                errors.append((number, f"rpc {match[1]} is not CamelCase"))
        elif line == "}" and blocks:
            kind, name, start, numbers = blocks.pop()
            if kind == "oneof":
                blocks[-1][3].extend(numbers)
            elif kind == "message" and numbers:
                left_out = set(range(1, max(numbers) + 1)) - set(numbers)
                if left_out:
                    errors.append((start, f"message {name} leaves out {sorted(left_out)}; declare them reserved"))
        elif blocks and (match := re.match(r"^reserved (.*);$", line)):
            blocks[-1][3].extend(reserved_numbers(match[1]))
        elif blocks and blocks[-1][0] == "enum" and (match := ENUM_VALUE.match(line)):
            enum, values = blocks[-1][1], blocks[-1][3]
            prefix = upper_snake(enum) + "_"
            if not match[1].startswith(prefix):
                errors.append((number, f"{match[1]} does not start with {prefix}"))
            if not values and match[0] != f"{prefix}UNSPECIFIED = 0;":
                errors.append((number, f"the first value of {enum} is {prefix}UNSPECIFIED = 0"))
            values.append(int(match[2]))
        elif blocks and (match := FIELD.match(line)):
            if not SNAKE.match(match[1]):
                errors.append((number, f"field {match[1]} is not snake_case"))
            blocks[-1][3].append(int(match[2]))
    return [f"{path}:{number}: {text}" for number, text in errors]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    files = sorted((root / "proto" / "conclave").rglob("*.proto"))
    errors = [error for path in files for error in check_file(path.relative_to(root))]
    print("\n".join(errors) if errors else f"proto: {len(files)} files follow the style")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
