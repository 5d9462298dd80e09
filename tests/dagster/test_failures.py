"""Reports of failed runs: what is sent, and that nothing is sent unless it is asked for."""

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from expect import refuses

from mist_dagster import definitions
from mist_dagster.failures import failure_sensor, message, report

RUN = dg.DagsterRun(job_name="brains__train", run_id="0123456789abcdef", tags={"mist/study": "brains"})


@contextlib.contextmanager
def listening(handler: Any) -> Iterator[int]:
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_message_names_study_and_job_and_no_patient(home: Path) -> None:
    (home / "webserver.url").write_text("http://127.0.0.1:3000")
    patient = dg.DagsterRun(
        job_name="brains__preprocess",
        run_id="0123456789abcdef",
        tags={"mist/study": "brains", "dagster/partition": "patient_007"},
    )
    assert message(RUN) == "brains: train failed (run 01234567). http://127.0.0.1:3000/runs/0123456789abcdef"
    assert "patient_007" not in message(patient)


def test_a_failure_is_posted_to_the_webhook(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as port:
        monkeypatch.setenv("MIST_FAILURE_WEBHOOK", f"http://127.0.0.1:{port}/hook")
        assert report(RUN)
    assert received == [{"text": message(RUN)}]


def test_a_failure_is_mailed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
                self.wfile.write({"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}.get(line.upper(), b"250 done\r\n"))
                if line.upper() == "DATA":
                    while (text := self.rfile.readline().decode().rstrip()) != ".":
                        lines.append(text)
                    self.wfile.write(b"250 done\r\n")
                if line.upper() == "QUIT":
                    return

    with listening(Handler) as port:
        monkeypatch.setenv("MIST_FAILURE_MAIL", "a@clinic.example, b@clinic.example")
        monkeypatch.setenv("MIST_SMTP", f"127.0.0.1:{port}")
        assert report(RUN)
    text = "\n".join(lines)
    assert "Subject: brains: train failed" in text
    assert "To: a@clinic.example, b@clinic.example" in text
    assert message(RUN) in text


def test_only_http_is_posted_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_FAILURE_WEBHOOK", "file:///etc/passwd")
    with refuses("webhook-invalid", found="file:///etc/passwd"):
        report(RUN)


def test_the_sensor_is_off_and_reports_nothing_by_default(home: Path) -> None:
    sensor = failure_sensor()
    assert sensor.name in [each.name for each in definitions.defs.load_fn().sensors or ()]
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert not report(RUN)
