"""Many texts written at once: requests join and leave while others go on."""
