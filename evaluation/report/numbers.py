"""Numbers as reports and terminals show them: what rounds to 0 has no sign."""

import math


def number(value: float | None) -> str:
    """Return a number to three significant digits, with a true minus sign.

    Example:
        >>> number(0.12345), number(12345.6), number(None)
        ('0.123', '12346', 'n/a')
    """
    if value is None or math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "\u221e"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.replace("-", "\u2212") if float(text) else text.removeprefix("-")


def percent(value: float) -> str:
    """Return a share in whole percent, with a true minus sign; what rounds to 0 has none.

    Example:
        >>> percent(0.256), percent(-0.001)
        ('26%', '0%')
    """
    text = f"{value:.0%}"
    return "0%" if text == "-0%" else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """Return `number` with its sign, plus included; what rounds to 0 has none.

    Example:
        >>> signed(0.25), signed(-0.0001)
        ('+0.250', '0.000')
    """
    return f"+{number(value)}" if sign_of(value) > 0 else number(value)


def sign_of(value: float) -> int:
    """Return the sign of a number as it is printed: 0 for one that rounds to 0.

    Example:
        >>> sign_of(0.25), sign_of(-0.0001)
        (1, 0)
    """
    return ((value > 0) - (value < 0)) * bool(number(value).strip("\u22120."))


def fixed(value: float, digits: int) -> str:
    """Return a number with so many decimals; what rounds to 0 has no sign.

    Example:
        >>> fixed(-0.001, 2), fixed(-0.126, 2)
        ('0.00', '-0.13')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"
