"""Life of a sweep: start, session, signals, end, resume, deletion."""
