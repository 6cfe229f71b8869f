"""The door on the network: two listeners, one for people and one for containers that fetch their config."""
