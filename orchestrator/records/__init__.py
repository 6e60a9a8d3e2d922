"""Journal of a sweep: its events, its file, the state they add up to, and its repair.

`events` declares the kinds of events, `lines` the format of a line, `journal` appends and reads, `history` is the only
reducer from events to state, and `repair` keeps the intact lines of a damaged file.
"""
