"""From a case's files to the arrays that a model trains on."""
