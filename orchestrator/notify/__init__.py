"""Notifications about a sweep, sent to webhooks."""
