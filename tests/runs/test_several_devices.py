"""What is asked on eight devices is answered as on one. (For each method: methods/.)"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "eight_devices.py"


SAME = ("sweep", "recommend", "newcomer", "evaluate", "waiting")
BYTES = ("server_step", "servers_tables")


def answers_to(*questions):
    done = subprocess.run([sys.executable, SCRIPT, *questions], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers():
    return answers_to(*SAME, *BYTES)


@pytest.mark.parametrize("question", SAME)
def test_eight_devices_answer_as_one(answers, question):
    same_on_eight(answers, question)


@pytest.mark.slow
@pytest.mark.parametrize("question", ["comparison", "bottleneck"])
def test_eight_devices_study_as_one(question):
    same_on_eight(answers_to(question), question)


def same_on_eight(answers, question):
    one, eight = (np.array(answers[number][question]) for number in ("1", "8"))
    assert one.size
    assert np.isfinite(one).any()
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5)


def test_eight_devices_share_the_memory_of_the_servers_step(answers):
    assert 0 < answers["8"]["server_step"] < answers["1"]["server_step"] / 2


def test_a_device_holds_the_tables_that_wait_for_its_own_clients(answers):
    """11 clients: room for two on each device."""
    assert answers["8"]["servers_tables"] * 11 == answers["1"]["servers_tables"] * 2
