"""What the dataclasses check of themselves."""


def require(ok: bool, message: str) -> None:
    """Raises ValueError with `message` unless `ok`."""
    if not ok:
        raise ValueError(message)


def positive(value: object, *names: str) -> None:
    """Raises ValueError unless these fields, where they are given, are above 0."""
    for name in names:
        number = getattr(value, name)
        require(
            number is None or number > 0, f"{name} is {number}; it must be positive"
        )
