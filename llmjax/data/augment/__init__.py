"""Small changes of texts that keep their labels."""
