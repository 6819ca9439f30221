"""A hospital's files: DICOM series in and out; it needs the extra `dicom`, which is imported only where it is used."""
