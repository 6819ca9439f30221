"""DICOM: a hospital's studies in, answers out; it needs the extra `dicom`, which is imported only where it is used."""
