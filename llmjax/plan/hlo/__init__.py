"""The text of a compiled program: instructions, executions, transfers, bytes moved."""
