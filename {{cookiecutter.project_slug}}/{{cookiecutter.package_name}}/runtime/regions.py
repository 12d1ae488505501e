"""List the regions of Azure, and find the one meant by a display name or a city.

This module imports only the standard library, because the template's hook uses it too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import permutations

# Each line has a region's short name, its display name, and places: cities, states and
# countries. A country is listed with the region that is open to all customers. If there are
# several of these, it is listed with each, and people must choose.
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
    """A region of Azure, with the spellings by which people may name it."""

    name: str
    display_name: str
    spellings: frozenset[str]  # They have lower-case letters and digits, and no spaces.


def find_regions(text: str) -> list[str]:
    """Return the short names of the regions that a user may mean by `text`.

    `text` may be a short name, a display name with its words in any order, or a place: a
    city, a state or a country. Text in brackets and after a comma is ignored, because `az
    account list-locations` shows "(Europe) West Europe". The list is empty if no region
    matches.
    """
    without_brackets = re.sub(r"\(.*?\)", " ", text)
    spelling = "".join(_split_words(without_brackets.partition(",")[0]))
    if spelling in REGIONS:
        return [spelling]
    return [name for name, region in REGIONS.items() if spelling in region.spellings]


def find_misspelt_region(text: str) -> str | None:
    """Return the short name of the region that is spelt like `text` with one typing error.

    Returns None if no region, or more than one, is spelt like that. Spellings of fewer than
    six characters are not compared: `ok` is not a misspelt `uk`.
    """
    typed = "".join(_split_words(text))
    names = set()
    for name, region in REGIONS.items():
        for spelling in (name, *region.spellings):
            if len(spelling) >= 6 and _differ_by_a_typing_error(typed, spelling):
                names.add(name)
    return names.pop() if len(names) == 1 else None


def _read_table(table: str) -> dict[str, Region]:
    """Return the regions of a table by their short names."""
    regions = {}
    for line in table.strip().splitlines():
        name, display_name, places = [cell.strip() for cell in line.split("|")]
        spellings = {"".join(_split_words(place)) for place in places.split(", ")}
        spellings |= _spell_display_name(display_name)
        spellings.discard("")
        regions[name] = Region(name, display_name, frozenset(spellings))
    return regions


def _spell_display_name(display_name: str) -> set[str]:
    """Return the spellings of a display name.

    Its words may be in any order, the last ones may be missing if two are left, and "eu" may
    stand for "europe".
    """
    name_words = _split_words(display_name)
    spellings = {"".join(order) for order in permutations(name_words)}
    for count in range(2, len(name_words)):
        spellings.add("".join(name_words[:count]))
    abbreviated = {spelling.replace("europe", "eu") for spelling in spellings}
    return spellings | abbreviated


def _split_words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case and without accents.

    Words of _SYNONYMS are replaced, such as "eastern" by "east".
    """
    plain = unicodedata.normalize("NFKD", text.lower().replace("ø", "o"))
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return [_SYNONYMS.get(word, word) for word in re.findall("[a-z]+|[0-9]+", plain)]


def _differ_by_a_typing_error(a: str, b: str) -> bool:
    """Return whether two different spellings differ by a single typing error.

    A typing error is one letter that is missing, added or wrong, or two neighbouring letters
    in the wrong order. A different digit is not a typing error: eastus4 is not eastus2.
    """
    # Remove the beginning and the end that both have in common.
    while a and b and a[0] == b[0]:
        a = a[1:]
        b = b[1:]
    while a and b and a[-1] == b[-1]:
        a = a[:-1]
        b = b[:-1]
    if re.search("[0-9]", a + b):
        return False
    is_one_letter = max(len(a), len(b)) == 1
    are_exchanged = len(a) == 2 and a == b[::-1]
    return is_one_letter or are_exchanged


#: The regions by short name. Azure opens new regions, so the rules treat another name as
#: unusual and not as wrong.
REGIONS = _read_table(_TABLE)
