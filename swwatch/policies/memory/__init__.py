"""KEEP, what surrounds its table: what a policy is, and one file for each memory."""
