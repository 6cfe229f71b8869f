"""JSON routes, one noun each."""
