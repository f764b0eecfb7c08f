"""Checks that the config's dataclasses share."""


def require(ok: bool, message: str) -> None:
    """Raises ValueError with `message` unless `ok`."""
    if not ok:
        raise ValueError(message)


def positive(value: object, *names: str) -> None:
    """Raises ValueError unless these fields are above 0 or None."""
    for name in names:
        number = getattr(value, name)
        require(
            number is None or number > 0, f"{name} is {number}; it must be positive"
        )
