"""Mesh, the table of logical-axis rules, and the report of what lies where."""
