"""The synthetic cohort: patients, images and outcomes with planted, written-down effects (start at `planted`)."""
