"""The edges: image files, cohort folders and the challenge's sockets."""
