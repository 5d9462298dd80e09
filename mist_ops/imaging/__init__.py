"""Files to arrays and arrays to arrays: geometry, NIfTI, resampling, labels, distances. The only home of nibabel."""
