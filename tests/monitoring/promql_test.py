"""The tests' own reading of PromQL."""

import unittest

import promql


class PromqlTest(unittest.TestCase):
    def test_names_metrics_and_labels(self):
        metrics, grouping = promql.selectors(
            'histogram_quantile(0.99, sum by (namespace, le) (rate(a_bucket{code=~"x}|y",pod="p"}[5m]))) '
            '/ on (pool) group_left () (b:c > 0) or time() - up')
        self.assertEqual(metrics, {"a_bucket": {"code", "pod"}, "b:c": set(), "up": set()})
        self.assertEqual(grouping, {"namespace", "le", "pool"})

    def test_finds_what_is_compared(self):
        self.assertEqual(promql.compared("(a > 14.4 * 0.001 and b > 1) or (c >= bool 6)"), ["a", "b", "c"])
        self.assertEqual(promql.compared("a < 0.5 * d and on (x) sum(rate(e[5m])) > 0.1"), ["a", "0.5 * d", "sum ( rate ( e [ 5m ] ) )"])
        self.assertEqual(promql.compared("count by (n) (u == 1) unless on (n) count (v == 1)"),
                         ["count by ( n ) ( u == 1 )", "count ( v == 1 )"])

    def test_shortens_windows(self):
        self.assertEqual(promql.shortened("rate(a[5m]) / rate(b[1m30s]) > 300", 60, 4), "rate(a[5s]) / rate(b[4s]) > 300")

    def test_refuses_what_it_does_not_read(self):
        with self.assertRaisesRegex(ValueError, "without a metric's name"):
            promql.selectors('{__name__="a"}')
        with self.assertRaisesRegex(ValueError, "not PromQL"):
            promql.tokens("a # b")


if __name__ == "__main__":
    unittest.main()
