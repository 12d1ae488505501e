"""List the regions of Azure, and find a region by its display name, a city or a country.

This module imports only the standard library, because the template's hook uses it too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import permutations

# Each line has a region's short name, its display name, and places: cities, states and
# countries. A country is listed with the region that is open to all customers. If several
# regions of a country are open, the country is listed with each of them, and people choose.
_TABLE = """
australiacentral   | Australia Central    | Canberra
australiacentral2  | Australia Central 2  | Canberra
australiaeast      | Australia East       | Sydney, New South Wales, Australia
australiasoutheast | Australia Southeast  | Melbourne, Victoria, Australia
austriaeast        | Austria East         | Vienna, Wien, Austria, Oesterreich, Österreich
belgiumcentral     | Belgium Central      | Brussels, Bruxelles, Brussel, Belgium, Belgien
brazilsouth        | Brazil South         | Sao Paulo, Brazil
brazilsoutheast    | Brazil Southeast     | Rio de Janeiro, Rio
canadacentral      | Canada Central       | Toronto, Ontario, Canada
canadaeast         | Canada East          | Quebec, Quebec City, Canada
centralindia       | Central India        | Pune, India
centralus          | Central US           | Iowa, Des Moines
centraluseuap      | Central US EUAP      |
chilecentral       | Chile Central        | Santiago, Santiago de Chile, Chile
chinaeast          | China East           | Shanghai, China
chinaeast2         | China East 2         | Shanghai, China
chinaeast3         | China East 3         | Jiangsu
chinanorth         | China North          | Beijing, China
chinanorth2        | China North 2        | Beijing, China
chinanorth3        | China North 3        | Hebei, China
denmarkeast        | Denmark East         | Copenhagen, Kobenhavn, Denmark
eastasia           | East Asia            | Hong Kong
eastus             | East US              | Virginia, Richmond
eastus2            | East US 2            | Virginia, Boydton
eastus2euap        | East US 2 EUAP       |
francecentral      | France Central       | Paris, France, Frankreich
francesouth        | France South         | Marseille
germanynorth       | Germany North        | Berlin
germanywestcentral | Germany West Central | Frankfurt, Frankfurt am Main, Germany, Deutschland
indonesiacentral   | Indonesia Central    | Jakarta, Indonesia
israelcentral      | Israel Central       | Tel Aviv, Israel
italynorth         | Italy North          | Milan, Milano, Italy
japaneast          | Japan East           | Tokyo, Saitama, Japan
japanwest          | Japan West           | Osaka, Japan
jioindiacentral    | Jio India Central    | Nagpur
jioindiawest       | Jio India West       | Jamnagar
koreacentral       | Korea Central        | Seoul, Korea, South Korea
koreasouth         | Korea South          | Busan
malaysiawest       | Malaysia West        | Kuala Lumpur, Malaysia
mexicocentral      | Mexico Central       | Queretaro, Mexico
newzealandnorth    | New Zealand North    | Auckland, New Zealand
northcentralus     | North Central US     | Chicago, Illinois
northeurope        | North Europe         | Dublin, Ireland, Irland, Nordeuropa
norwayeast         | Norway East          | Oslo, Norway
norwaywest         | Norway West          | Stavanger
polandcentral      | Poland Central       | Warsaw, Warszawa, Poland
qatarcentral       | Qatar Central        | Doha, Qatar
southafricanorth   | South Africa North   | Johannesburg, South Africa
southafricawest    | South Africa West    | Cape Town
southcentralus     | South Central US     | San Antonio, Texas
southeastasia      | Southeast Asia       | Singapore
southindia         | South India          | Chennai, Madras
spaincentral       | Spain Central        | Madrid, Spain
swedencentral      | Sweden Central       | Gavle, Stockholm, Sweden
swedensouth        | Sweden South         | Malmo
switzerlandnorth   | Switzerland North    | Zurich, Switzerland, Schweiz, Suisse
switzerlandwest    | Switzerland West     | Geneva, Geneve, Genf
taiwannorth        | Taiwan North         | Taipei, Taiwan
uaecentral         | UAE Central          | Abu Dhabi
uaenorth           | UAE North            | Dubai, United Arab Emirates
uksouth            | UK South             | London, England, UK, United Kingdom
ukwest             | UK West              | Cardiff, Wales
usdodcentral       | US DoD Central       |
usdodeast          | US DoD East          |
usgovarizona       | US Gov Arizona       |
usgovtexas         | US Gov Texas         |
usgovvirginia      | US Gov Virginia      |
westcentralus      | West Central US      | Wyoming, Cheyenne
westeurope         | West Europe          | Amsterdam, Netherlands, Holland, Niederlande, Westeuropa
westindia          | West India           | Mumbai, Bombay
westus             | West US              | California, San Francisco
westus2            | West US 2            | Washington, Seattle, Quincy
westus3            | West US 3            | Phoenix, Arizona
"""
# Typos are searched only in spellings of at least this length. Almost any short word is one
# typo away from another: `ok` is not a misspelt `uk`.
_MIN_LENGTH_FOR_TYPOS = 6
# Other spellings that people use for a word of a display name.
_SYNONYMS = {
    "america": "us",
    "britain": "uk",
    "eastern": "east",
    "eu": "europe",
    "northern": "north",
    "southern": "south",
    "usa": "us",
    "western": "west",
}


@dataclass(frozen=True)
class Region:
    """A region of Azure, with the spellings that people may use for it."""

    name: str
    display_name: str
    #: Display names and places, in lower-case letters and digits, without spaces.
    spellings: frozenset[str]


def find_regions(text: str) -> list[str]:
    """Return the short names of the regions that a user may mean by `text`.

    `text` may be a short name, a display name with its words in any order, or a place: a
    city, a state or a country. Text in brackets, and everything after a comma, is ignored:
    Azure's lists show "(Europe) West Europe", and people write "Amsterdam, Netherlands".
    The list is empty if no region matches.
    """
    without_brackets = re.sub(r"\(.*?\)", " ", text)
    before_comma, _, _ = without_brackets.partition(",")
    spelling = "".join(_split_words(before_comma))
    if spelling in REGIONS:
        return [spelling]
    return [name for name, region in REGIONS.items() if spelling in region.spellings]


def find_misspelt_region(text: str) -> str | None:
    """Return the short name of the region that `text` misspells by one typo.

    `westeurop` gives `westeurope`. Short spellings such as `uk` are left out. Returns None
    if no region is similar, or if several regions are.
    """
    typed = "".join(_split_words(text))
    names = set()
    for name, region in REGIONS.items():
        for spelling in (name, *region.spellings):
            is_long_enough = len(spelling) >= _MIN_LENGTH_FOR_TYPOS
            if is_long_enough and _differ_by_one_typo(typed, spelling):
                names.add(name)
    if len(names) != 1:
        return None
    return names.pop()


def _read_table(table: str) -> dict[str, Region]:
    """Return the regions of a table such as _TABLE, as a dict by short name."""
    regions = {}
    for line in table.strip().splitlines():
        name, display_name, places = [cell.strip() for cell in line.split("|")]
        spellings = {"".join(_split_words(place)) for place in places.split(", ")}
        spellings |= _list_spellings(display_name)
        spellings.discard("")
        regions[name] = Region(name, display_name, frozenset(spellings))
    return regions


def _list_spellings(display_name: str) -> set[str]:
    """Return the spellings by which people may write a display name.

    Spellings are in lower case, without spaces. For "Germany West Central", the words may be
    in any order, as in `centralgermanywest`. Words may also be missing at the end, as long
    as two are left, as in `germanywest`. The word "europe" may be shortened to "eu".
    """
    words = _split_words(display_name)
    spellings = {"".join(ordered_words) for ordered_words in permutations(words)}
    for count in range(2, len(words)):
        spellings.add("".join(words[:count]))
    shortened = {spelling.replace("europe", "eu") for spelling in spellings}
    return spellings | shortened


def _split_words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case and without accents.

    Words in _SYNONYMS are replaced: "Eastern US2" gives `["east", "us", "2"]`.
    """
    # NFKD writes é as an e and a combining accent, which is then left out. NFKD keeps the
    # letter ø, so this letter is replaced before.
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("ø", "o"))
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return [_SYNONYMS.get(word, word) for word in re.findall("[a-z]+|[0-9]+", plain)]


def _differ_by_one_typo(a: str, b: str) -> bool:
    """Return whether two different spellings differ by a single typo.

    A typo is one letter that is missing, added or wrong, or two neighbouring letters in the
    wrong order. A different digit is not a typo: `eastus4` is not `eastus2`.
    """
    # Cut off what both begin with, and what both end with.
    while a and b and a[0] == b[0]:
        a = a[1:]
        b = b[1:]
    while a and b and a[-1] == b[-1]:
        a = a[:-1]
        b = b[:-1]

    has_digit = re.search("[0-9]", a + b) is not None
    if has_digit:
        return False
    is_one_letter = max(len(a), len(b)) == 1
    are_swapped = len(a) == 2 and a == b[::-1]
    return is_one_letter or are_swapped


#: The regions by short name. Azure opens new regions from time to time, so the rules treat a
#: name that is not here as unusual, and not as wrong.
REGIONS = _read_table(_TABLE)
