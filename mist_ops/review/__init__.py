"""Which masks are probably wrong: masks compared with independent predictions of the same patients."""
