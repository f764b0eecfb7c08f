"""Pure functional Transformer modules; they know no task, no data and no device."""
