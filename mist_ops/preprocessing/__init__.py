"""Preprocessing of cases: from files to the arrays that a network trains on."""
