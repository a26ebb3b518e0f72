"""Stores on an SQL database: one manager over small connectors, SQL in ``.sql`` files."""
