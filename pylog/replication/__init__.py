"""Replicas of a log: who leads, how far each is, and the protocol between them.

The rules are pure; transports carry batches unchanged; roles are changed by who elects.
"""
