"""The assets of a study, a module per stage: paths from the study, one call into mist_ops, metadata out."""
