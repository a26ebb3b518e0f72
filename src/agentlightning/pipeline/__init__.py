"""The way of an ended span from the user's thread to a store: queue, worker, redaction, limits, delivery, ledger."""
