"""Rules of sessions and messages without I/O: time and ids are passed in."""
