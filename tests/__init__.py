"""Tests mirror the package; see helpers/ for what they share."""
