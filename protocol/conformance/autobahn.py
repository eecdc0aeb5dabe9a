#!/usr/bin/env python3
"""Runs the Autobahn WebSocket test suite against an echo endpoint and compares the verdicts with a committed file.

Two runners of the same case files: `kosoku` (native, PyPI, the default) and `autobahn` (the reference, which needs a
CPython 2.7). The native one fails 18 cases of section 13 by itself, before it connects; the committed file is the
reference's. A case passes when its behaviour is OK, NON-STRICT or INFORMATIONAL and its close OK or INFORMATIONAL;
a case that did not run has failed. Ends with 0 only if every case passed and none is worse than in the file.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

# Cases per section: 517 in all. A run that lost some of them must not look complete.
SECTIONS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}
# Everything but sizes (9) and compression (12, 13), which take minutes.
FAST = [1, 2, 3, 4, 5, 6, 7, 10]
# Better first; what is not named here is a failure.
PASSING = ["OK", "NON-STRICT", "INFORMATIONAL"]
PASSING_CLOSE = ["OK", "INFORMATIONAL"]
KOSOKU = "kosoku==0.1.0"
AUTOBAHN = "autobahntestsuite==25.10.1"


def cache():
    base = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    path = os.path.join(base, "corecast-conformance")
    os.makedirs(path, exist_ok=True)
    return path


def quietly(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"autobahn.py: {' '.join(command)} failed:\n{done.stdout}")


def install_kosoku():
    home = os.path.join(cache(), "venv-kosoku")
    runner = os.path.join(home, "bin", "kosoku")
    if not os.path.exists(runner):
        shutil.rmtree(home, ignore_errors=True)
        quietly(sys.executable, "-m", "venv", home)
        quietly(os.path.join(home, "bin", "pip"), "install", "-q", KOSOKU)
    return runner


def install_autobahn():
    home = os.path.join(cache(), "venv-ab27")
    runner = os.path.join(home, "bin", "wstest")
    if os.path.exists(runner):
        return runner
    pyenv = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/2.7*/bin/python2.7")))
    python = os.environ.get("PY27") or (pyenv[-1] if pyenv else shutil.which("python2.7"))
    if not python:
        sys.exit("autobahn.py: the reference runner needs a CPython 2.7: set PY27, or leave out --reference")
    tools = os.path.join(cache(), "py27venvtool")
    quietly(python, "-m", "pip", "install", "-q", "virtualenv<20.22", "--target", tools)
    quietly(python, "-m", "virtualenv", "-q", "-p", python, home, env={**os.environ, "PYTHONPATH": tools})
    quietly(os.path.join(home, "bin", "pip"), "install", "-q", AUTOBAHN)
    return runner


def run_section(section, arguments, folder):
    """One run a section: a server that dies in one does not lose the verdicts of the others."""
    cases = f"{section}.*"
    if arguments.reference:
        spec = {
            "outdir": folder,
            "options": {"failByDrop": False},
            "servers": [{"url": arguments.url, "agent": "corecast"}],
            "cases": [cases],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        with open(os.path.join(folder, "spec.json"), "w") as file:
            json.dump(spec, file)
        command = [install_autobahn(), "-m", "fuzzingclient", "-s", "spec.json"]
    else:
        command = [install_kosoku(), arguments.url, "-i", cases, "-o", folder]
    with open(os.path.join(folder, "run.log"), "w") as log:
        try:
            subprocess.run(command, cwd=folder, stdout=log, stderr=log, timeout=arguments.timeout)
        except subprocess.TimeoutExpired:
            print(f"section {section}: stopped after {arguments.timeout} s; its cases count as failed")
    verdicts = {}
    try:
        with open(os.path.join(folder, "index.json")) as file:
            index = json.load(file)
    except (OSError, ValueError):
        return verdicts
    # The native runner files what it could not run under another agent's name.
    for agent in index.values():
        for case, verdict in agent.items():
            verdicts[case] = {"behavior": verdict["behavior"], "close": verdict["behaviorClose"]}
    return verdicts


def passes(verdict):
    return verdict["behavior"] in PASSING and verdict["close"] in PASSING_CLOSE


def grade(verdict):
    """Smaller is better."""
    behaviour, close = verdict["behavior"], verdict["close"]
    return (
        PASSING.index(behaviour) if behaviour in PASSING else len(PASSING),
        PASSING_CLOSE.index(close) if close in PASSING_CLOSE else len(PASSING_CLOSE),
    )


def in_order(cases):
    return sorted(cases, key=lambda case: [int(part) for part in case.split(".")])


def judge(verdicts, sections, known):
    """What is wrong, a line each."""
    wrong = []
    for section in sections:
        ran = sum(case.split(".")[0] == str(section) for case in verdicts)
        if ran != SECTIONS[section]:
            wrong.append(f"section {section}: {ran} of {SECTIONS[section]} cases ran")
    for case in in_order(verdicts):
        verdict, before = verdicts[case], known.get(case)
        text = f"{verdict['behavior']}, close {verdict['close']}"
        if not passes(verdict):
            wrong.append(f"{case}: {text}")
        elif before is None:
            wrong.append(f"{case}: {text}, but the committed file does not know this case")
        elif grade(verdict) > grade(before):
            wrong.append(f"{case}: {text}, was {before['behavior']}, close {before['close']}")
    return wrong


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the echo endpoint, as ws://127.0.0.1:8080/ws/echo")
    parser.add_argument("--known", required=True, help="the committed verdicts, compared or written")
    parser.add_argument("--sections", default="all", help="fast, all, or numbers as 12,13")
    parser.add_argument("--reference", action="store_true", help="the reference runner, which needs a CPython 2.7")
    parser.add_argument("--write", action="store_true", help="write the verdicts instead of comparing; all sections only")
    parser.add_argument("--timeout", type=int, default=1500, help="seconds for one section")
    given = parser.parse_args()
    named = {"fast": FAST, "all": list(SECTIONS)}
    try:
        given.chosen = named.get(given.sections) or [int(part) for part in given.sections.split(",")]
        unknown = [section for section in given.chosen if section not in SECTIONS]
    except ValueError:
        parser.error("--sections must be fast, all, or numbers as 12,13")
    if unknown:
        parser.error(f"there is no section {unknown[0]}: {', '.join(map(str, SECTIONS))}")
    if given.write and given.chosen != list(SECTIONS):
        parser.error("--write needs all sections")
    return given


def main():
    given = arguments()
    verdicts = {}
    for section in given.chosen:
        with tempfile.TemporaryDirectory(prefix="autobahn-") as folder:
            found = run_section(section, given, folder)
        passed = sum(map(passes, found.values()))
        print(f"section {section:2}: {passed:3} of {SECTIONS[section]:3} passed", flush=True)
        verdicts.update(found)
    known = {}
    if not given.write:
        with open(given.known) as file:
            known = json.load(file)["cases"]
    wrong = judge(verdicts, given.chosen, verdicts if given.write else known)
    for line in wrong:
        print(f"  {line}")
    wanted = sum(SECTIONS[section] for section in given.chosen)
    passed = sum(map(passes, verdicts.values()))
    print(f"{passed} of {wanted} cases passed; {len(wrong)} findings")
    if wrong:
        sys.exit(1)
    if given.write:
        runner = AUTOBAHN if given.reference else KOSOKU
        cases = {case: verdicts[case] for case in in_order(verdicts)}
        with open(given.known, "w") as file:
            file.write(f'{{\n  "runner": {json.dumps(runner)},\n  "passed": {passed},\n  "cases": {{\n')
            lines = [f"    {json.dumps(case)}: {json.dumps(verdict)}" for case, verdict in cases.items()]
            file.write(",\n".join(lines) + "\n  }\n}\n")


if __name__ == "__main__":
    main()
