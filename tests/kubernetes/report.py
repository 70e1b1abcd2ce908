"""What the checks print: one line each, the sum last."""

import sys
import time
import traceback


class Problem(Exception):
    """Something is not as it must be; the text says what, and what was found."""


class Report:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.started = time.monotonic()

    def check(self, name, function, *arguments):
        """Runs one check. It passes unless it raises; what it returns stands beside its name. True when it passed."""
        begin = time.monotonic()
        try:
            note = function(*arguments)
        except Exception as error:  # a check that breaks must not hide the others, nor keep the cluster from being ended
            self.failed += 1
            found = str(error) if isinstance(error, Problem) else traceback.format_exc()
            print(f"FAIL  {name}  ({time.monotonic() - begin:.1f} s)\n      " + found.strip().replace("\n", "\n      "))
            sys.stdout.flush()
            return False
        self.passed += 1
        print(f"ok    {name}" + (f": {note}" if note else "") + f"  ({time.monotonic() - begin:.1f} s)")
        sys.stdout.flush()
        return True

    def sum(self):
        print(f"{time.monotonic() - self.started:.0f} s")
        print(f"{self.passed} passed, {self.failed} failed")
        return self.failed == 0


def expect(condition, text):
    if not condition:
        raise Problem(text)
