"""What the tests have to know of a PromQL expression without evaluating it: which metrics and labels it names, what it
compares with what, and how to shorten its windows."""

import re

_TOKEN = re.compile(r"""
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<duration>\d+(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<name>[A-Za-z_:$][A-Za-z0-9_:]*)
  | (?P<operator>==|!=|<=|>=|=~|!~|[-+*/%^<>=(){}\[\],@])
  | (?P<space>\s+)
""", re.VERBOSE)
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "topk", "bottomk", "quantile", "stddev", "stdvar", "count_values"}
_KEYWORDS = _AGGREGATIONS | {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool",
                             "offset", "inf", "nan", "start", "end"}
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_SET_OPERATORS = {"and", "or", "unless"}
_COMPARISONS = {"==", "!=", "<", ">", "<=", ">="}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def tokens(expression):
    """(kind, text) of every token but the spaces."""
    at, found = 0, []
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"not PromQL at {expression[at:at + 20]!r} of {expression!r}")
        at = match.end()
        if match.lastgroup != "space":
            found.append((match.lastgroup, match.group()))
    return found


def selectors(expression):
    """{metric: labels it is selected by} of an expression, and the labels that it groups or matches by."""
    parts = tokens(expression)
    metrics, grouping = {}, set()
    at = 0
    while at < len(parts):
        kind, text = parts[at]
        following = parts[at + 1][1] if at + 1 < len(parts) else ""
        if kind == "name" and text in _LABEL_LISTS:
            if following == "(":
                at += 2
                while parts[at][1] != ")":
                    if parts[at][0] == "name":
                        grouping.add(parts[at][1])
                    at += 1
        elif kind == "name" and text not in _KEYWORDS and following != "(":
            labels = metrics.setdefault(text, set())
            if following == "{":
                at += 2
                while parts[at][1] != "}":
                    if parts[at][0] == "name":
                        labels.add(parts[at][1])
                    at += 1
        elif text == "{":
            raise ValueError(f"a selector without a metric's name in {expression!r}")
        at += 1
    return metrics, grouping


def _split(parts, operators):
    """The token lists between those operators that stand outside of all brackets, without what modifies the operators."""
    pieces, piece, depth, at = [], [], 0, 0
    while at < len(parts):
        text = parts[at][1]
        if text in "([{":
            depth += 1
        elif text in ")]}":
            depth -= 1
        if depth == 0 and text in operators and parts[at][0] != "string":
            pieces.append(piece)
            piece = []
            at += 1
            while at < len(parts) and parts[at][1] in _LABEL_LISTS | {"bool"}:
                at += 1
                if at < len(parts) and parts[at][1] == "(" and parts[at - 1][1] != "bool":
                    while parts[at][1] != ")":
                        at += 1
                    at += 1
            continue
        piece.append(parts[at])
        at += 1
    return pieces + [piece]


def _is_enclosed(parts):
    if not parts or parts[0][1] != "(" or parts[-1][1] != ")":
        return False
    depth = 0
    for i, (_, text) in enumerate(parts):
        depth += (text == "(") - (text == ")")
        if depth == 0 and i < len(parts) - 1:
            return False
    return True


def compared(expression):
    """The parts of an alert's expression that answer whether it fires or not: the sides of its comparisons, numbers apart."""
    def leaves(parts):
        while _is_enclosed(parts):
            parts = parts[1:-1]
        for operators in (_SET_OPERATORS, _COMPARISONS):
            pieces = _split(parts, operators)
            if len(pieces) > 1:
                return [leaf for piece in pieces for leaf in leaves(piece)]
        if not any(kind == "name" for kind, _ in parts):
            return []
        return [" ".join(text for _, text in parts)]
    return leaves(tokens(expression))


def seconds(duration):
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def shortened(expression, divisor, shortest_s):
    """The expression with every window divided, but to no less than so many seconds."""
    def shorter(match):
        return f"[{max(shortest_s, round(seconds(match.group(1)) / divisor))}s]"
    return re.sub(r"\[([0-9a-z]+)\]", shorter, expression)
