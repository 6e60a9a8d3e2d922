"""Allocation of epochs to trials that pause and resume: interface, and the rules that decide."""
