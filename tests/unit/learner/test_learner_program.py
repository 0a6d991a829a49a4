"""`python -m learner`: its command line, and how the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from learner.__main__ import main
from learner.guards import RunStopped
from tests.unit.learner.test_learner_loop import set_up
from upturn.client import UpturnAPIError

ROOT = Path(__file__).parents[3]
COMPUTING = """
import hashlib, signal, sys, time
from learner.stopping import ending_in_time

def stop(number, frame):
    {reaction}

def give_back():
    print("given back", flush=True)
    {give_back}

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
with ending_in_time(give_back, grace_s={grace_s}):
    print("computing", flush=True)
    {compute}
"""
ENDLESS = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"


@contextlib.contextmanager
def over_http(server):
    """Serve a loop test's server on a port; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = server.handle(httpx2.Request(self.command, f"http://upturn{self.path}", content=body))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(answer.status_code)
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def held_at_publishing(server):
    """Block the publication of versions; return an event that is set when one arrives, and one that releases it."""
    publishing, leave = threading.Event(), threading.Event()

    def before(path, body):
        if path == "/v1/policies" and body:
            publishing.set()
            leave.wait(60)

    server.before = before
    return publishing, leave


def test_sigterm_during_a_learner_step_returns_the_batch_and_exits_with_code_0(tmp_path):
    server, _ = set_up(tmp_path)
    publishing, leave = held_at_publishing(server)
    with over_http(server) as url:
        command = [sys.executable, "-m", "learner", "run", "--server", url, "--work-dir", str(tmp_path / "work")]
        command += ["--device", "cpu", "--threads", "1", "--learner", "me"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert publishing.wait(120)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            leave.set()
            process.kill()  # does nothing if it has ended
            process.wait()
            process.stdout.close()
    assert process.returncode == 0, output
    assert [(ack["state"], ack["learner"]) for _, ack in server.acks] == [("returned", "me")]
    assert server.run.state == "running" and server.released == ["me"]  # for the next learner that claims it
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output


@contextlib.contextmanager
def handlers_kept():
    """Undo what a learner in this process does to the signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_an_interrupt_exits_with_code_130(monkeypatch):
    monkeypatch.setattr("learner.program.do_next_run", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with handlers_kept():
        assert main(["run", "--server", "http://upturn"]) == 130


@pytest.mark.parametrize("once", [[], ["--once"]])
def test_a_directory_that_cannot_be_used_ends_the_learner_with_code_2(tmp_path, monkeypatch, capfd, once):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("learner.program.do_next_run", lambda *_: pytest.fail("no run may begin"))
    command = ["run", "--server", "http://upturn", *once, "--work-dir"]
    with handlers_kept():
        assert main([*command, str(tmp_path / "file" / "work")]) == 2
    assert "cannot be used" in capfd.readouterr().err

    def refused(*_):
        raise UpturnAPIError(400, "bad_path", "weights must be in a directory under /data")

    monkeypatch.setattr("learner.program.do_next_run", refused)
    with handlers_kept():
        assert main([*command, str(tmp_path / "work")]) == 2
    assert "must be in a directory under /data" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("done", 0), ("failed", 1), ("stopped", 1), (None, 0), (RunStopped("it repeats itself"), 1), (KeyError("x"), 1)],
)
def test_the_exit_code_of_a_single_run_says_whether_it_is_done(tmp_path, monkeypatch, outcome, code):
    def run(*_):
        if isinstance(outcome, Exception):
            raise outcome
        return None if outcome is None else SimpleNamespace(id="r", state=outcome, step=1, reason="tested")

    monkeypatch.setattr("learner.program.do_next_run", run)
    with handlers_kept():
        assert main(["run", "--server", "http://upturn", "--once", "--work-dir", str(tmp_path)]) == code


def test_the_help_names_every_option_and_the_variable_of_the_key(capsys):
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--server", "--run", "--once", "--device", "--threads", "--work-dir", "--learner", "UPTURN_KEY"):
        assert option in text


def test_a_wrong_setting_ends_with_code_2(capsys):
    assert main(["run", "--server", "http://upturn", "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--server", "http://upturn", "--heartbeats-s", "3"],
        ["launch", "--processes", "2", "--server", "http://upturn", "--heartbeats-s", "3"],
    ],
    ids=["run", "launch"],
)
def test_a_misspelled_option_ends_with_code_2_and_a_suggestion(capsys, command):
    assert main(command) == 2
    assert "--heartbeat-s" in capsys.readouterr().err


def test_several_machines_need_a_meeting_point(capsys):
    assert main(["launch", "--processes", "2", "--machines", "2", "--server", "http://upturn"]) == 2
    assert "--meet" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["launch", "--help"], ["--version"]])
def test_help_and_version_need_no_torch(arguments):
    program = "import sys; sys.modules['torch'] = None; from learner.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_the_former_module_still_launches_with_a_warning():
    command = [sys.executable, "-m", "learner.launch", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--processes" in done.stdout
    assert "use python -m learner launch" in done.stderr


def stopped(number: int, compute: str, grace_s: float, give_back: str = "", reaction: str = "pass") -> tuple[int, str]:
    """Send a signal to a process that computes; return its exit code and what it printed after that."""
    program = COMPUTING.format(compute=compute, grace_s=grace_s, give_back=give_back, reaction=reaction)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        assert any(line == "computing\n" for line in process.stdout)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()  # does nothing if it has ended
        process.wait()
    return process.returncode, output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_in_the_middle_of_a_computation_gives_the_run_back_and_ends_the_process(number: int, code: int) -> None:
    ended, output = stopped(number, ENDLESS, 0.1)
    assert ended == code and output.count("given back") == 1


def test_a_failure_to_give_the_run_back_does_not_keep_the_process() -> None:
    ended, output = stopped(signal.SIGTERM, ENDLESS, 0.1, "raise OSError('no server')")
    assert ended == 0 and "no server" in output


def test_a_process_that_stops_by_itself_is_left_alone() -> None:
    assert stopped(signal.SIGTERM, "time.sleep(600)", 600.0, reaction="raise SystemExit(7)") == (7, "")
