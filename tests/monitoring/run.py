"""Runs the tests of this folder one after the other and ends with their sum."""

import importlib
import sys
import unittest

import monitored_cluster

MODULES = ["promql_test", "static_test", "live_test"]


def main():
    passed = failed = skipped = 0
    for name in MODULES:
        module = importlib.import_module(name)
        if name == "live_test" and monitored_cluster.PROMETHEUS is None:
            print(f"{name}: skipped, no prometheus (package prometheus)")
            continue
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(module))
        # A subtest that fails is a failure of its test; what failed before any test ran has no test.
        bad = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
        failed += len(bad)
        skipped += len(result.skipped)
        passed += max(0, result.testsRun - len(bad) - len(result.skipped))
    if skipped:
        print(f"{skipped} skipped")
    print(f"\n{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
