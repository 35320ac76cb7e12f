"""What the report, ledger and bench programs share; it imports nothing else of ``reports``."""
