"""The mains: absl flags in, `<workdir>/result.json` out."""
