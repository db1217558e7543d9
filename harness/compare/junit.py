"""A comparison as a JUnit report: one test case per arm and measure, so that any CI shows what became worse."""

import re
from xml.etree import ElementTree as ET

from harness.compare.judgement import VERDICTS, GateResult

# what XML 1.0 cannot hold, escaped or not
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcome: GateResult) -> str:
    """The report as XML.

    A regression and a trial that fails in the candidate alone are a ``failure``; what is inconclusive or not judged is
    ``skipped``, with the reason; why nothing could be compared is an ``error``.
    """
    base, candidate = outcome.names
    suite = ET.Element("testsuite", name=_clean(f"{candidate} against {base}"))
    for line in outcome.errors:
        _case(suite, "comparison", "can be made", "error", line)
    for one in outcome.comparisons:
        _case(suite, one.arm, one.measure, VERDICTS[one.verdict].junit, f"{one.verdict}: {one.why}")
    for failure in outcome.failures:
        _case(suite, failure.arm, f"seed={failure.seed} ends", "failure", failure.message)
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, arm: str, name: str, kind: str, message: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(arm), name=_clean(name), time="0")
    if not kind:
        ET.SubElement(case, "system-out").text = _clean(message)
    else:
        ET.SubElement(case, kind, message=_clean(message))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
