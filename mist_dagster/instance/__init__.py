"""The Dagster home: storage, registered studies, the web server, TensorBoard."""
