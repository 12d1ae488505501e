"""Correct the names of VM sizes, and list the sizes that Azure retires."""

from __future__ import annotations

import re
from datetime import date

#: Patterns of the VM sizes that Azure retires, with the day on which this happens. They are
#: from Microsoft's page "Retired Azure VM size series", as it was in 2026-10.
RETIRING_VM_SIZES = {
    r"standard_ds?\d+(-\d)?(_v2)?(_promo)?": "2028-05-01",  # D, Ds, Dv2, Dsv2
    r"standard_l\d+s": "2028-05-01",
    r"standard_a\d+m?_v2": "2028-11-15",
    r"standard_b\d+[a-z]*": "2028-11-15",
    r"standard_f\d+s?(_v2)?": "2028-11-15",
    r"standard_gs?\d+": "2028-11-15",
    r"standard_l\d+s_v2": "2028-11-15",
    r"standard_nv\d+a?s_v[34]": "2026-09-30",
    r"standard_nc\d+r?s_v3": "2025-09-30",
}


def correct_vm_size(value: str) -> str:
    """Return a VM size with underscores in place of spaces.

    `Standard D4ds v4` becomes `Standard_D4ds_v4`.
    """
    return re.sub(r"\s+", "_", value)


def advise_on_vm_size(name: str) -> str:
    """Return advice if Azure retires a VM size, or if its name is unusual.

    The advice is a part of a sentence, such as "Azure retires it on 2028-05-01, so write a
    newer size". It is "" if there is nothing to say about the size.
    """
    for pattern, day in RETIRING_VM_SIZES.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            advice = "so write a newer size, such as Standard_D4ds_v4"
            if date.fromisoformat(day) <= date.today():
                return f"Azure retired it on {day}, {advice}"
            return f"Azure retires it on {day}, {advice}"
    if re.match(r"standard_[a-z]+\d", name, re.IGNORECASE):
        return ""
    return "sizes look like Standard_D4ds_v4 (`az ml compute list-sizes` shows them)"
