"""DICOM: what studies hold, and answers as objects that other programs read; it needs the extra `dicom`."""
