# Source this file on every machine. All machines mount the folders at the same path.
# Use passwords of letters and digits, such as from `openssl rand -hex 24`; other characters must be escaped in a URL.
export PATH=/shared/mist/venv/bin:$PATH # where mist-dagster[celery] is installed
export DAGSTER_HOME=/shared/mist/dagster_home
export MIST_POSTGRES=postgresql+psycopg2://mist:CHANGE_ME@head:5432/dagster
export MIST_EXECUTOR=celery
export MIST_CELERY_BROKER=redis://:CHANGE_ME@head:6379/0
export MIST_CELERY_BACKEND=redis://:CHANGE_ME@head:6379/1
