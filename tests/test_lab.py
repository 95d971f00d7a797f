"""The helper that starts JupyterLab for the browser tests; it needs no browser itself."""

import subprocess
import sys

import browser
import pytest

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


def test_81_a_server_that_ended_is_an_error():
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as server:
        with pytest.raises(RuntimeError, match="ended with exit code 3 before it answered"):
            browser.until_it_answers(server, NOBODY)


def test_81_a_server_that_never_answers_is_an_error():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        with pytest.raises(TimeoutError, match="did not answer within 0.5 seconds"):
            browser.until_it_answers(server, NOBODY, seconds=0.5)
        server.kill()


def test_81_no_test_gets_the_address_of_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="before it answered"), browser.lab(tmp_path):
        pytest.fail("the helper went on")
