#!/usr/bin/env bash
# A Celery worker: `worker.sh dagster 4` for four processes of the ordinary steps, `worker.sh gpu 1` for one with a GPU.
# SIGTERM or Ctrl-C ends it with the steps that it executes.
set -euo pipefail
queue=${1:?dagster or gpu}
processes=${2:-1}
exec celery --app mist_dagster.worker worker --queues "$queue" --concurrency "$processes" \
    --hostname "$queue-$$@$(hostname)" --loglevel INFO
