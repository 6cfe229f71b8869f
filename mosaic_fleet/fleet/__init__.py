"""Providers, the roster, openclaw.json and the roster's stack."""
