"""What each craft of fine-tuning gives."""
