"""How dates and times are spelled, and the formats of strptime that read them.

Some spellings can only mean one date, such as 31-Jan-2026: they are read without a
setting. Others need the word of the user: 01/02/2026 is in January or in February.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Also of a duration, which may be longer than a day.
HOURS_MINUTES_SECONDS = "%H:%M:%S%.f"

WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October"
    r"|November|December|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
)
DAY = r"\d{1,2}"
YEAR = r"\d{4}"


@dataclass(frozen=True)
class Spelling:
    """A pattern of text, and the formats of which any may be meant by it."""

    pattern: str
    formats: tuple[str, ...]


def _spell(pattern: str, *formats: str) -> Spelling:
    """Return a spelling whose pattern names a day, month and year by DAY, MONTH, YEAR."""
    for name, meaning in (("DAY", DAY), ("MONTH", MONTH), ("YEAR", YEAR)):
        pattern = pattern.replace(name, meaning)
    return Spelling(pattern, formats)


CERTAIN_DATES = (
    _spell(r"YEAR-DAY-DAY", "%Y-%m-%d"),
    _spell(r"YEAR/DAY/DAY", "%Y/%m/%d"),
    # With fewer digits it may be the version of a program, such as 2026.1.5.
    _spell(r"YEAR\.\d\d\.\d\d", "%Y.%m.%d"),
    _spell(r"YEAR-W\d\d-[1-7]", "%G-W%V-%u"),
    _spell(r"DAY-MONTH-YEAR", "%d-%B-%Y"),
    _spell(r"DAY/MONTH/YEAR", "%d/%B/%Y"),
    _spell(r"DAY\.MONTH\.YEAR", "%d.%B.%Y"),
    _spell(r"DAY MONTH YEAR", "%d %B %Y"),
    _spell(r"DAY MONTH, YEAR", "%d %B, %Y"),
    _spell(r"DAY\. MONTH YEAR", "%d. %B %Y"),
    _spell(r"DAYMONTHYEAR", "%d%B%Y"),
    _spell(r"MONTH +DAY, *YEAR", "%B %d, %Y"),
    _spell(r"MONTH +DAY YEAR", "%B %d %Y"),
    _spell(r"MONTH-DAY-YEAR", "%B-%d-%Y"),
    _spell(r"YEAR-MONTH-DAY", "%Y-%B-%d"),
    _spell(r"YEAR/MONTH/DAY", "%Y/%B/%d"),
    _spell(r"YEAR MONTH DAY", "%Y %B %d"),
    # Eight digits are a date only before a time, and a number elsewhere.
    _spell(r"\d{8}(?=T\d)", "%Y%m%d"),
)
DOUBTFUL_DATES = (
    _spell(r"DAY\.DAY\.YEAR", "%d.%m.%Y"),
    _spell(r"DAY/DAY/YEAR", "%m/%d/%Y", "%d/%m/%Y"),
    _spell(r"DAY-DAY-YEAR", "%d-%m-%Y", "%m-%d-%Y"),
    _spell(r"DAY DAY YEAR", "%d %m %Y", "%m %d %Y"),
    _spell(r"YEAR\.DAY\.DAY", "%Y.%m.%d"),
    _spell(r"YEAR DAY DAY", "%Y %m %d"),
    # The century of a year of two digits is not certain.
    _spell(r"DAY\.DAY\.\d\d", "%d.%m.%y"),
    _spell(r"DAY/DAY/\d\d", "%m/%d/%y", "%d/%m/%y", "%y/%m/%d"),
    _spell(r"DAY-DAY-\d\d", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d"),
    _spell(r"DAY-MONTH-\d\d", "%d-%b-%y"),
    _spell(r"DAY MONTH \d\d", "%d %b %y"),
    _spell(r"DAYMONTH\d\d", "%d%b%y"),
    _spell(r"MONTH DAY, \d\d", "%b %d, %y"),
    # A month is read as its first day. 2010-11 may also be a season.
    _spell(r"YEAR-\d\d", "%Y-%m"),
    _spell(r"YEAR/\d\d", "%Y/%m"),
    _spell(r"YEARM\d\d", "%YM%m"),
    _spell(r"DAY/YEAR", "%m/%Y"),
    _spell(r"DAY-YEAR", "%m-%Y"),
    _spell(r"MONTH YEAR", "%B %Y"),
    _spell(r"MONTH-YEAR", "%B-%Y"),
    _spell(r"YEAR MONTH", "%Y %B"),
    _spell(r"YEAR-MONTH", "%Y-%B"),
    _spell(r"MONTH-\d\d", "%b-%y"),
    _spell(r"MONTH \d\d", "%b %y"),
)
CERTAIN_TIMES = (
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
# Alone, it may be minutes and seconds, or the score of a game.
HOURS_AND_MINUTES = _spell(r"\d{1,2}:\d\d", "%H:%M")
TIMES_BEHIND_DATES = (*CERTAIN_TIMES, HOURS_AND_MINUTES)
TIMES_BEHIND_T = (
    *TIMES_BEHIND_DATES,
    _spell(r"\d{6}(?:\.\d+)?", "%H%M%S%.f"),
    _spell(r"\d{4}", "%H%M"),
)
# What may stand between a date and a time, and which times may follow. A blank in a
# format stands for any number of blanks, and for none.
TIMES_BY_SEPARATOR = {
    _spell(r" +", " "): TIMES_BEHIND_DATES,
    _spell(r"T", "T"): TIMES_BEHIND_T,
    _spell(r", *", ", "): TIMES_BEHIND_DATES,
    _spell(r" at ", " at "): TIMES_BEHIND_DATES,
    _spell(r":", ":"): TIMES_BEHIND_DATES,
}
# Other names of zones are not certain: IST is India's, Ireland's and Israel's.
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


def find_certain_format(text: str) -> str | None:
    """Return the only format that the text of a date or time can have, or None."""
    if not re.search(r"\d", text):
        return None
    for spelling in (*CERTAIN_TIMES, *DURATIONS):
        if _match(spelling, text):
            return spelling.formats[0]
    date_formats = _find_date_formats(text, CERTAIN_DATES)
    return next(date_formats, None) or _find_unix_format(text)


def list_possible_formats(text: str) -> list[str]:
    """Return the formats of which one may be meant by the text of a date or time."""
    formats = list(_find_date_formats(text, DOUBTFUL_DATES))
    if _match(HOURS_AND_MINUTES, text):
        formats += HOURS_AND_MINUTES.formats
    return formats


def _match(spelling: Spelling, text: str) -> bool:
    """Return whether the whole text is spelled so."""
    return re.fullmatch(spelling.pattern, text, re.IGNORECASE) is not None


def _find_date_formats(text: str, dates: tuple[Spelling, ...]) -> Iterator[str]:
    """Yield the formats of a text that is a date, with or without weekday and time."""
    if not re.match(rf"\d|{WEEKDAY}|{MONTH}", text, re.IGNORECASE):
        return
    weekday = re.match(rf"{WEEKDAY}(,?) *(?=\w)", text, re.IGNORECASE)
    prefix = ""
    if weekday:
        prefix = f"%A{weekday[1]} "
        text = text[weekday.end() :]
    for date in dates:
        found = re.match(date.pattern, text, re.IGNORECASE)
        if not found:
            continue
        time_format = _find_time_format(text[found.end() :])
        if time_format is None:
            continue
        for date_format in date.formats:
            yield f"{prefix}{date_format}{time_format}"


def _find_time_format(text: str) -> str | None:
    """Return the format of what follows a date: nothing, or a time and perhaps a zone.

    Returns None if it is anything else.
    """
    if not text:
        return ""
    for separator, times in TIMES_BY_SEPARATOR.items():
        for time in times:
            for zone in ZONES:
                pattern = separator.pattern + time.pattern + zone.pattern
                if re.fullmatch(pattern, text, re.IGNORECASE):
                    return separator.formats[0] + time.formats[0] + zone.formats[0]
    return None


def _find_unix_format(text: str) -> str | None:
    """Return the format of a text like "Sat Jan 31 10:15:00 UTC 2026", or None."""
    found = re.fullmatch(
        rf"{WEEKDAY} ({MONTH} +{DAY})( +\d\d:\d\d:\d\d.*?) ({YEAR})",
        text,
        re.IGNORECASE,
    )
    if not found:
        return None
    time_format = _find_time_format(found[2])
    return time_format and f"%A %B %d{time_format} %Y"
