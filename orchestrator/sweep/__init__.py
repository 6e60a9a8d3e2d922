"""Life of a sweep: start, sessions, signals, end, resume, dry run, deletion."""
