"""Partitioned commit logs in a directory, in Kafka's format, as a library."""
