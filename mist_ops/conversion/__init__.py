"""Conversion of datasets in other layouts."""
