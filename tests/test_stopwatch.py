"""Seconds by stage: sleeping passes time, computing spends it."""

import subprocess
import sys
import time

from tempoquant.stopwatch import Stopwatch, cpu_seconds

SPIN = "import time\nwhile time.process_time() < 0.2: pass"


def test_sleep_costs_no_processor():
    watch = Stopwatch()
    with watch.stage("asleep"):
        time.sleep(0.2)
    assert watch.wall["asleep"] >= 0.2 > 2 * watch.cpu["asleep"]


def test_children_count():
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert cpu_seconds() - before >= 0.15
