# To be sourced on every machine; the folders lie on a file system that all of them share, under the same path.
export DAGSTER_HOME=/shared/mist/dagster_home
export MIST_POSTGRES=postgresql+psycopg2://mist:CHANGE_ME@head:5432/dagster
export MIST_EXECUTOR=celery
export MIST_CELERY_BROKER=redis://:CHANGE_ME@head:6379/0
export MIST_CELERY_BACKEND=redis://:CHANGE_ME@head:6379/1
export PYTHONPATH=/shared/mist/deploy/celery # dagster_celery_config.py
