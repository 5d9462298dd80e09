"""The Dagster home and what is served from it: storage, registered studies, the web server, TensorBoard."""
