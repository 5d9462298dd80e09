#!/usr/bin/env bash
# Start a Celery worker: `worker.sh dagster 4` with 4 processes for steps without GPU, `worker.sh gpu 1` with 1 for a GPU.
# SIGTERM and Ctrl-C stop the worker and its steps.
set -euo pipefail
queue=${1:?dagster or gpu}
processes=${2:-1}
exec celery --app mist_dagster.worker worker --queues "$queue" --concurrency "$processes" \
    --hostname "$queue-$$@$(hostname)" --loglevel INFO
