"""Find the strptime formats in which the text of a date or time may be written.

A text such as 31-Jan-2026 is unambiguous, and is read without a setting. For an ambiguous
text, the user has to choose a format: 01/02/2026 may be in January or in February.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

# This format is also used for durations, which may be longer than a day.
HOURS_MINUTES_SECONDS = "%H:%M:%S%.f"

WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
MONTH_NAME = (
    r"(?:January|February|March|April|May|June|July|August|September|October"
    r"|November|December|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
)
ONE_OR_TWO_DIGITS = r"\d{1,2}"
FOUR_DIGITS = r"\d{4}"


@dataclass(frozen=True)
class Spelling:
    """A regular expression, and the strptime formats that a matching text may have.

    Only an ambiguous date, such as 01/02/2026, has several formats.
    """

    pattern: str
    formats: tuple[str, ...]

    @property
    def only_format(self) -> str:
        """Return the format of a matching text, if there is only one."""
        return self.formats[0]


def _spell(pattern: str, *formats: str) -> Spelling:
    """Create a spelling. Its pattern may contain placeholders for the parts of a date.

    YYYY is a year, NN is a day or a month of one or two digits, and NAME is the name of a
    month: "NN/NN/YYYY" matches 1/31/2026, and "NN NAME YYYY" matches 31 Jan 2026.
    """
    pattern = pattern.replace("YYYY", FOUR_DIGITS)
    pattern = pattern.replace("NN", ONE_OR_TWO_DIGITS)
    pattern = pattern.replace("NAME", MONTH_NAME)
    return Spelling(pattern, formats)


UNAMBIGUOUS_DATES = (
    _spell(r"YYYY-NN-NN", "%Y-%m-%d"),
    _spell(r"YYYY/NN/NN", "%Y/%m/%d"),
    # With fewer digits, such as 2026.1.5, it may be the version of a program.
    _spell(r"YYYY\.\d\d\.\d\d", "%Y.%m.%d"),
    _spell(r"YYYY-W\d\d-[1-7]", "%G-W%V-%u"),
    _spell(r"NN-NAME-YYYY", "%d-%B-%Y"),
    _spell(r"NN/NAME/YYYY", "%d/%B/%Y"),
    _spell(r"NN\.NAME\.YYYY", "%d.%B.%Y"),
    _spell(r"NN NAME YYYY", "%d %B %Y"),
    _spell(r"NN NAME, YYYY", "%d %B, %Y"),
    _spell(r"NN\. NAME YYYY", "%d. %B %Y"),
    _spell(r"NNNAMEYYYY", "%d%B%Y"),
    _spell(r"NAME +NN, *YYYY", "%B %d, %Y"),
    _spell(r"NAME +NN YYYY", "%B %d %Y"),
    _spell(r"NAME-NN-YYYY", "%B-%d-%Y"),
    _spell(r"YYYY-NAME-NN", "%Y-%B-%d"),
    _spell(r"YYYY/NAME/NN", "%Y/%B/%d"),
    _spell(r"YYYY NAME NN", "%Y %B %d"),
    # Eight digits are only a date if a time follows them. Otherwise they are a number.
    _spell(r"\d{8}(?=T\d)", "%Y%m%d"),
)
AMBIGUOUS_DATES = (
    _spell(r"NN\.NN\.YYYY", "%d.%m.%Y"),
    _spell(r"NN/NN/YYYY", "%m/%d/%Y", "%d/%m/%Y"),
    _spell(r"NN-NN-YYYY", "%d-%m-%Y", "%m-%d-%Y"),
    _spell(r"NN NN YYYY", "%d %m %Y", "%m %d %Y"),
    _spell(r"YYYY\.NN\.NN", "%Y.%m.%d"),
    _spell(r"YYYY NN NN", "%Y %m %d"),
    # The century of a year with two digits is not certain.
    _spell(r"NN\.NN\.\d\d", "%d.%m.%y"),
    _spell(r"NN/NN/\d\d", "%m/%d/%y", "%d/%m/%y", "%y/%m/%d"),
    _spell(r"NN-NN-\d\d", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d"),
    _spell(r"NN-NAME-\d\d", "%d-%b-%y"),
    _spell(r"NN NAME \d\d", "%d %b %y"),
    _spell(r"NNNAME\d\d", "%d%b%y"),
    _spell(r"NAME NN, \d\d", "%b %d, %y"),
    # A month is read as its first day. 2010-11 may also be a season.
    _spell(r"YYYY-\d\d", "%Y-%m"),
    _spell(r"YYYY/\d\d", "%Y/%m"),
    _spell(r"YYYY[M]\d\d", "%YM%m"),
    _spell(r"NN/YYYY", "%m/%Y"),
    _spell(r"NN-YYYY", "%m-%Y"),
    _spell(r"NAME YYYY", "%B %Y"),
    _spell(r"NAME-YYYY", "%B-%Y"),
    _spell(r"YYYY NAME", "%Y %B"),
    _spell(r"YYYY-NAME", "%Y-%B"),
    _spell(r"NAME-\d\d", "%b-%y"),
    _spell(r"NAME \d\d", "%b %y"),
)
UNAMBIGUOUS_TIMES = (
    # Some programs leave out the fraction if it is zero.
    _spell(r"\d{1,2}:\d\d:\d\d(?:\.\d+)?", HOURS_MINUTES_SECONDS),
    _spell(r"\d{1,2}:\d\d:\d\d,\d{3}", "%H:%M:%S,%3f"),
    _spell(r"\d{1,2}:\d\d:\d\d ?[AP]M", "%I:%M:%S %p"),
    _spell(r"\d{1,2}:\d\d ?[AP]M", "%I:%M %p"),
)
DURATIONS = (
    _spell(r"\d+:\d\d:\d\d(?:\.\d+)?", HOURS_MINUTES_SECONDS),
    _spell(r"\d+ days?,? \d+:\d\d:\d\d(?:\.\d+)?", HOURS_MINUTES_SECONDS),
)
# Without a date, it may be minutes and seconds, or the score of a game.
HOURS_AND_MINUTES = _spell(r"\d{1,2}:\d\d", "%H:%M")
TIMES_AFTER_DATE = (*UNAMBIGUOUS_TIMES, HOURS_AND_MINUTES)
TIMES_AFTER_T = (
    *TIMES_AFTER_DATE,
    _spell(r"\d{6}(?:\.\d+)?", "%H%M%S%.f"),
    _spell(r"\d{4}", "%H%M"),
)
# The separators between a date and a time, and the times that may follow each one. A space
# in a format stands for any number of spaces, including none.
TIMES_BY_SEPARATOR = {
    _spell(r" +", " "): TIMES_AFTER_DATE,
    _spell(r"T", "T"): TIMES_AFTER_T,
    _spell(r", *", ", "): TIMES_AFTER_DATE,
    _spell(r" at ", " at "): TIMES_AFTER_DATE,
    _spell(r":", ":"): TIMES_AFTER_DATE,
}
# Other names of zones are ambiguous: IST is the time of India, of Ireland and of Israel.
ZONES = (
    _spell(r"", ""),
    _spell(r" ?Z", " Z"),
    _spell(r" ?UTC", " UTC"),
    _spell(r" ?GMT", " GMT"),
    _spell(r" ?[+-]\d\d:?\d\d", " %z"),
    _spell(r" ?[+-]\d\d", " %#z"),
    _spell(r" GMT[+-]\d{4}", " GMT%z"),
    _spell(r" [+-]\d\d:?\d\d UTC", " %z UTC"),
    _spell(r" [+-]\d\d:?\d\d \(UTC\)", " %z (UTC)"),
)


def find_unambiguous_format(text: str) -> str | None:
    """Return the strptime format of a text that can be only one date or time, or None.

    For example, the format of "31-Jan-2026 10:15 AM" is "%d-%B-%Y %I:%M %p". In polars, %B
    reads long and short names of months. Returns None for an ambiguous date, such as
    01/02/2026, and for a text that is neither a date nor a time.
    """
    has_digit = re.search(r"\d", text) is not None
    if not has_digit:
        return None
    for spelling in (*UNAMBIGUOUS_TIMES, *DURATIONS):
        if _matches(spelling, text):
            return spelling.only_format
    date_format = next(_find_date_formats(text, UNAMBIGUOUS_DATES), None)
    if date_format is not None:
        return date_format
    return _find_unix_format(text)


def list_possible_formats(text: str) -> list[str]:
    """Return the formats in which an ambiguous date or time may be written.

    For example, 01/02/2026 may be "%m/%d/%Y" or "%d/%m/%Y". The list is empty for a text
    that is neither a date nor a time.
    """
    formats = list(_find_date_formats(text, AMBIGUOUS_DATES))
    if _matches(HOURS_AND_MINUTES, text):
        formats += HOURS_AND_MINUTES.formats
    return formats


def _matches(spelling: Spelling, text: str) -> bool:
    """Return whether the whole text matches a spelling, in upper or lower case."""
    return re.fullmatch(spelling.pattern, text, re.IGNORECASE) is not None


def _find_date_formats(text: str, dates: tuple[Spelling, ...]) -> Iterator[str]:
    """Yield the strptime formats in which a text is a date, with or without a time.

    `dates` are the spellings of the date that are tried. An ambiguous date has several
    formats: 01/02/2026 begins with the day or with the month. A text that is no date has
    none.
    """
    # Most texts are ruled out here, which is faster than trying all spellings.
    if not re.match(rf"\d|{WEEKDAY}|{MONTH_NAME}", text, re.IGNORECASE):
        return
    weekday_format, text_from_date = _split_weekday(text)
    for spelling in dates:
        date_match = re.match(spelling.pattern, text_from_date, re.IGNORECASE)
        if not date_match:
            continue
        text_after_date = text_from_date[date_match.end() :]
        time_format = _find_time_format(text_after_date)
        if time_format is None:
            continue
        for date_format in spelling.formats:
            yield weekday_format + date_format + time_format


def _split_weekday(text: str) -> tuple[str, str]:
    """Return the format of a weekday at the start of a text, and the text that follows.

    For example, "Sat, 31 Jan 2026" gives "%A, " and "31 Jan 2026". If the text begins with
    no weekday, or if no date follows the weekday, the format is "" and the text is
    returned whole.
    """
    # A weekday must be followed by a letter or a digit, with which the date begins.
    weekday_match = re.match(rf"{WEEKDAY}(,?) *(?=\w)", text, re.IGNORECASE)
    if not weekday_match:
        return "", text
    comma = weekday_match[1]
    return f"%A{comma} ", text[weekday_match.end() :]


def _find_time_format(text_after_date: str) -> str | None:
    """Return the strptime format of the text that follows a date, or None.

    This text may be a time, with or without a zone: "T10:15:00 Z" gives
    "T%H:%M:%S%.f Z". The format of "T10:15:00Z" is the same, because polars lets a space in
    a format also stand for no space. The format is "" if nothing follows the date. Returns
    None if the text that follows is not a time.
    """
    if not text_after_date:
        return ""
    for separator, times in TIMES_BY_SEPARATOR.items():
        for time, zone in product(times, ZONES):
            pattern = separator.pattern + time.pattern + zone.pattern
            if re.fullmatch(pattern, text_after_date, re.IGNORECASE):
                return separator.only_format + time.only_format + zone.only_format
    return None


def _find_unix_format(text: str) -> str | None:
    """Return the format of a text that the Unix command `date` has printed, or None.

    For example, the format of "Sat Jan 31 10:15:00 UTC 2026" is
    "%A %B %d %H:%M:%S%.f UTC %Y". `_find_date_formats` does not find this format, because
    the time stands between the day and the year.
    """
    month_and_day = rf"{MONTH_NAME} +{ONE_OR_TWO_DIGITS}"
    time_and_zone = r"(?P<time_and_zone> +\d\d:\d\d:\d\d.*?)"
    pattern = rf"{WEEKDAY} {month_and_day}{time_and_zone} {FOUR_DIGITS}"
    match = re.fullmatch(pattern, text, re.IGNORECASE)
    if not match:
        return None
    time_format = _find_time_format(match["time_and_zone"])
    if time_format is None:
        return None
    # In polars, %A and %B read short names, such as Sat and Jan, as well as long ones.
    return f"%A %B %d{time_format} %Y"
