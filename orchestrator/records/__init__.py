"""The journal of a sweep: its events, the file that holds them, the state they add up to, and its repair.

`events` names every kind of event, `lines` says what a sound line is, `journal` appends and reads, `history` is the one
reducer, and `repair` keeps what is sound of a damaged file.
"""
