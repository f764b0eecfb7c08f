"""Plans of a run on TPUs, made by the TPU compiler on a machine that has none."""
