#!/usr/bin/env python3
"""The comparison of verdicts can fail: lost, failing, worse and unknown cases are all found."""

import unittest

from autobahn import SECTIONS, judge

OK = {"behavior": "OK", "close": "OK"}


def section(number, **changed):
    cases = {f"{number}.{case}": dict(OK) for case in range(1, SECTIONS[number] + 1)}
    for case, verdict in changed.items():
        cases[f"{number}.{case[1:]}"] = verdict
    return cases


class Comparison(unittest.TestCase):
    def test_all_well(self):
        self.assertEqual(judge(section(3), [3], section(3)), [])

    def test_a_lost_case(self):
        found = section(3)
        del found["3.2"]
        self.assertEqual(judge(found, [3], section(3)), ["section 3: 6 of 7 cases ran"])

    def test_a_failing_case_is_found_even_if_it_is_known(self):
        for bad in [{"behavior": "FAILED", "close": "OK"}, {"behavior": "OK", "close": "UNCLEAN"},
                    {"behavior": "UNIMPLEMENTED", "close": "OK"}]:
            found = section(3, _4=bad)
            self.assertEqual(len(judge(found, [3], found)), 1, bad)

    def test_a_worse_case(self):
        found = section(3, _4={"behavior": "NON-STRICT", "close": "OK"})
        self.assertEqual(judge(found, [3], section(3)), ["3.4: NON-STRICT, close OK, was OK, close OK"])
        self.assertEqual(judge(section(3), [3], found), [], "better is fine")

    def test_an_unknown_case(self):
        known = section(3)
        del known["3.7"]
        self.assertEqual(len(judge(section(3), [3], known)), 1)

    def test_there_are_517(self):
        self.assertEqual(sum(SECTIONS.values()), 517)


if __name__ == "__main__":
    unittest.main(verbosity=0)
