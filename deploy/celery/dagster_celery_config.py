"""Settings of the Celery workers, found on their PYTHONPATH."""

from __future__ import annotations

import os

broker_url = os.environ["MIST_CELERY_BROKER"]
result_backend = os.environ["MIST_CELERY_BACKEND"]
# A fold trains for days, one at a time: a worker takes no task that it cannot begin, and none is handed out twice.
worker_prefetch_multiplier = 1
broker_transport_options = {"visibility_timeout": 30 * 24 * 3600}
result_backend_transport_options = broker_transport_options
