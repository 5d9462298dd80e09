"""Segmentation of 3-D medical images: arrays in, arrays out.

Everything that computes lives here. Nothing in this package knows of Dagster, and nothing in it prints.
"""
