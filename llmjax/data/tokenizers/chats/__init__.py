"""Chat templates: the text of a conversation, rendered in a bounded process."""
