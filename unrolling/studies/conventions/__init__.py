"""Conventions of the protocol and of the released code."""
