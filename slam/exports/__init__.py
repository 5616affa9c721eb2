"""Saved maps in the formats of other programs: a file for each kind, one registry."""
