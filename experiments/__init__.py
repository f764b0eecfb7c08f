"""The commands: each reads absl flags and writes `<workdir>/result.json`."""
