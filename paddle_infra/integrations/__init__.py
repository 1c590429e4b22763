"""Bridges to other libraries of the field, one subpackage each; each needs its own optional extra."""
