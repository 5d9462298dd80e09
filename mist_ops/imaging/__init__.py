"""Reading, writing and resampling of images: geometry, NIfTI, labels, distances. Only this package imports nibabel."""
