"""From sources to a store: one parallel job that resumes."""
