"""Calibration of probabilities and of volumes: arrays and numbers in, fitted values out."""
