"""MMPL: tumor and node masks, HPV status and recurrence risk from one PET/CT and one clinical record."""

__version__ = "0.2.0"
