"""A sensor that reports failed runs by mail or to a webhook. It is off by default."""

import json
import os
import smtplib
import urllib.request
from email.message import EmailMessage
from urllib.parse import urlsplit

import dagster as dg

from mist_dagster.instance import addresses
from mist_dagster.instance.home import web_server
from mist_ops.errors import ConfigError

WEBHOOK = "MIST_FAILURE_WEBHOOK"
"""Environment variable: URL to which a failure is posted as JSON with the key ``text``, as for Slack."""

MAIL = "MIST_FAILURE_MAIL"
"""Environment variable: addresses to which a failure is mailed, separated by commas."""

SMTP = "MIST_SMTP"
"""Environment variable: ``host:port`` of the mail server, by default ``localhost:25``; it must need no password."""

_SECONDS = 20


def failure_sensor() -> dg.SensorDefinition:
    """The sensor, for all runs of the code location."""

    @dg.run_failure_sensor(
        name="report_failures",
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Report failed runs to {WEBHOOK} and by mail to {MAIL}: environment variables of mist_ui.",
    )
    def report_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not report(context.dagster_run):
            return dg.SkipReason(f"Neither {WEBHOOK} nor {MAIL} is set where mist_ui was started.")
        return None

    return report_failures


def report(run: dg.DagsterRun) -> bool:
    """Report a failed run; return whether there was somewhere to report it.

    Raises:
        ConfigError: The URL of the webhook is not one.
        OSError: Webhook or mail server cannot be reached; Dagster shows it beside the sensor.
    """
    webhook, mail = os.environ.get(WEBHOOK, ""), os.environ.get(MAIL, "")
    if webhook:
        _post(webhook, message(run))
    if mail:
        _send([address.strip() for address in mail.split(",")], message(run))
    return bool(webhook or mail)


def message(run: dg.DagsterRun) -> str:
    """One line on a failed run, with neither patients nor the error, which may name some: it leaves the machine."""
    study = run.tags.get("mist/study", "")
    job = run.job_name.removeprefix(f"{study}__").replace("_", " ")
    link = f"{web_server() or ''}{addresses.run(run.run_id)}"
    return f"{f'{study}: ' if study else ''}{job} failed (run {run.run_id[:8]}). {link}"


def _post(url: str, text: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(
            f"{WEBHOOK} is '{url}', which is not a URL of http or https. Correct it.",
            code="webhook-invalid",
            field=WEBHOOK,
            found=url,
        )
    content = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_SECONDS):
        pass


def _send(receivers: list[str], text: str) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = text.partition(" (run")[0], receivers[0], ", ".join(receivers)
    mail.set_content(text)
    host, _, port = os.environ.get(SMTP, "localhost:25").partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=_SECONDS) as server:
        server.send_message(mail)
