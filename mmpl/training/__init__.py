"""Training: what the programs of `train/` run; nothing that answers a case imports it."""
