"""Work that runs as a job of a cluster: it reads and writes the file system of a study alone, and reports in files."""
