"""Runs a fleet of OpenClaw gateways for a team, on Docker Swarm."""

__version__ = "0.1.0"
