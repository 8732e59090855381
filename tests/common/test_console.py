"""A process whose output is not read any more."""

import subprocess
import sys

WORK = """
from common.console import keep_on_without_reader
keep_on_without_reader()
print("first")
input()
for _ in range(10000):
    print("not read")
raise SystemExit(7)
"""


def test_a_process_works_on_after_the_reader_of_its_output_has_gone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == ("", 7)
