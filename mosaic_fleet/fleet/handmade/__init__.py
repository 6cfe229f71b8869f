"""A fleet made by hand: a compose file, env files and OpenClaw configs in a folder, read into the roster."""
