"""What the parts of a finished run are worth: ablations, tables, figures and studies of the synthetic cohort."""
