"""Text to token ids: training, files of every format, chat templates."""
